"""Everything that one run needs: models, stores, servers. All of it is gone afterwards but for the report."""

import json
import urllib.request
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.forecourt import Shape, forecourt, predictions, set_up
from tests.bench.load import MARK, LoadGenerator, http_request
from tests.bench.machine import Cores, pin
from tests.bench.models import ROWS, TRAINED, ModelFolder
from tests.bench.processes import Served, free_port, python, serving
from tests.bench.table import Contender
from tests.servers import private_postgres_server, private_redis_server

Say = Callable[[str], None]

BARE_KINDS = {"sklearn": "bare", "onnx": "bare + onnxruntime", "onnx-async": "bare async + onnxruntime"}
"""The kinds of bare server, as a report names them."""

REPEATED_ROWS = 50
"""Rows of the comparison whose subject is the cache."""


@dataclass(slots=True, kw_only=True)
class Site:
    """What is running."""

    folder: Path
    cores: Cores
    generator: LoadGenerator
    models: ModelFolder
    store_pids: list[int]
    database_url: str
    redis_url: str
    say: Say
    stack: ExitStack
    _bare: dict[tuple[str, str], Served] = field(default_factory=dict)

    def shape(self, name: str, *, workers: int = 1) -> Shape:
        """Return a shape on stores of its own: ``server``, or ``embedded``."""
        if name == "embedded":
            url = f"sqlite+aiosqlite:///{self.folder / 'forecourt.db'}"
            return Shape(name=name, database_url=url, redis_url=None, models=self.models.repository)
        return Shape(
            name=name,
            database_url=self.database_url,
            redis_url=self.redis_url,
            models=self.models.repository,
            workers=workers,
        )

    def ours(self, name: str) -> "Ours":
        """Set a shape up, and serve it until the end."""
        shape = self.shape(name)
        keys = set_up(shape)
        served = self.stack.enter_context(forecourt(shape, cores=self.cores, folder=self.folder))
        return Ours(name="ours" if name == "server" else f"ours, {name}", served=served, keys=keys, models=self.models)

    def bare(self, kind: str, model: str) -> Contender:
        """Return a bare server of a model, started at its first use."""
        # The same forest; only ours is forbidden to accelerate it.
        file = "b" if model == "f" else model
        if (kind, file) not in self._bare:
            port = free_port()
            command = python("tests.bench.bare", kind, str(self.models.joblib(file)), str(port))
            log = self.folder / f"bare-{kind}-{file}.log"
            self._bare[kind, file] = self.stack.enter_context(serving(command, port, cores=self.cores, log=log))
        served = self._bare[kind, file]
        bodies = (f'{{"inputs": [{row}]}}'.encode() for row in self.models.trained(model).rows(ROWS))
        requests = [http_request(served.port, "/predict", body) for body in bodies]
        return Contender(name=BARE_KINDS[kind], served=served, requests=requests)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours:
    """Ours, serving."""

    name: str
    served: Served
    keys: list[str]
    models: ModelFolder

    def asked(self, model: str) -> Contender:
        """Ask rows that nobody has asked before."""
        rows = self.models.trained(model).rows(ROWS)
        return Contender(
            name=self.name, served=self.served, requests=predictions(self.served.port, model, rows, self.keys)
        )

    def asked_again(self, model: str) -> Contender:
        """Ask the same few rows again and again."""
        rows = [row.replace(MARK, "") for row in self.models.trained(model).rows(REPEATED_ROWS)]
        requests = predictions(self.served.port, model, rows, self.keys)
        return Contender(name=f"{self.name}, cache hits", served=self.served, requests=requests)


@contextmanager
def open_site(folder: Path, cores: Cores, say: Say, *, models: Collection[str] = TRAINED) -> Iterator[Site]:
    """Train the models, and start a Redis and a PostgreSQL that really writes what it commits."""
    trained = ModelFolder(folder / "models")
    trained.train(say, models)
    with ExitStack() as stack:
        redis = stack.enter_context(private_redis_server())
        postgres = stack.enter_context(private_postgres_server(durable=True))
        pids = [pid for pid in (redis.pid, postgres.pid) if pid is not None]
        for pid in pids:
            pin(pid, cores.others)
        yield Site(
            folder=folder,
            cores=cores,
            generator=LoadGenerator(folder.parent, cores),
            models=trained,
            store_pids=pids,
            database_url=postgres.url.replace("postgresql://", "postgresql+psycopg://", 1),
            redis_url=redis.url,
            say=say,
            stack=stack,
        )


def answer_of(contender: Contender) -> tuple[dict[str, str], Any]:
    """Send a contender's first request; return the headers and the body of the answer."""
    head, _, body = contender.requests[0].replace(MARK.encode(), b"0" * len(MARK)).partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    url = f"http://127.0.0.1:{contender.served.port}{first.split()[1]}"
    request = urllib.request.Request(url, data=body, headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return dict(answer.headers), json.loads(answer.read())
