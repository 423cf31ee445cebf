"""Other model servers beside ours, where they are installed: ``scripts/bench --peers mlserver,bentoml,litserve``.

None of them is a dependency of this project, and each has an environment of its own: they want other versions of what
this project is made of. Each serves model A as its own documentation shows, on the same core, with what it has for
batching switched on; none of them knows a credential, a limit or a bill.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from math import isclose
from pathlib import Path
from typing import Any

from tests.bench.load import http_request
from tests.bench.models import ROWS
from tests.bench.processes import free_port, serving
from tests.bench.site import Site, answer_of
from tests.bench.table import Comparison, Contender, Figure, Goal

CONNECTIONS = 16
ENVIRONMENTS = Path(__file__).resolve().parents[2] / "var" / "peers"

_BENTOML = """
import bentoml
import joblib
import numpy as np

@bentoml.service(workers=1, traffic={"timeout": 60})
class Bench:
    def __init__(self):
        self.model = joblib.load(%r)

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=1000)
    def predict(self, inputs: np.ndarray) -> np.ndarray:
        return self.model.predict_proba(inputs)
"""

_LITSERVE = """
import joblib
import litserve
import numpy as np

class Bench(litserve.LitAPI):
    def setup(self, device):
        self.model = joblib.load(%r)

    def decode_request(self, request):
        return request["inputs"][0]

    def batch(self, inputs):
        return np.array(inputs)

    def predict(self, rows):
        return self.model.predict_proba(rows).tolist()

    def unbatch(self, output):
        return output

    def encode_response(self, output):
        return {"probabilities": output}

if __name__ == "__main__":
    server = litserve.LitServer(Bench(max_batch_size=64, batch_timeout=0.001), accelerator="cpu")
    server.run(host="127.0.0.1", port=%d, generate_client_file=False, log_level="warning")
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Another model server: what to install, how to start it, and where in an answer the probabilities of a row are."""

    packages: tuple[str, ...]
    start: Callable[[Site, int], Contender]
    read: Callable[[Any], list[float]]


def peers_of(names: Sequence[str], *, environments: Path = ENVIRONMENTS) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return those of some peers that are installed, and a sentence for each that is not.

    Raises:
        ValueError: a name is none of :data:`PEERS`.
    """
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise ValueError(f"no such peer: {', '.join(unknown)}; there are {', '.join(PEERS)}")
    found = tuple(name for name in names if (environments / name / "bin" / name).exists())
    return found, tuple(_remedy(name) for name in names if name not in found)


def _remedy(name: str) -> str:
    # The model was fitted by this version, and another one may not load it.
    packages = " ".join((*PEERS[name].packages, f"scikit-learn=={version('scikit-learn')}"))
    environment = f"var/peers/{name}"
    return (
        f"{name} is not installed: `python3 -m venv {environment} && {environment}/bin/pip install {packages}` "
        "gives it an environment of its own"
    )


def peer_comparison(site: Site, names: Sequence[str]) -> Iterator[Comparison]:
    """Yield the comparison with some peers, which are started when it comes up."""
    if names:
        bare = site.bare("sklearn", "a")
        peers = [_answering_alike(bare, name, PEERS[name].start(site, free_port())) for name in names]
        yield Comparison(
            name="Peers on A",
            connections=CONNECTIONS,
            contenders=(bare, site.ours("server").asked("a"), *peers),
            goals=tuple(Goal(figure=Figure.THROUGHPUT, of="ours", against=name) for name in names),
        )


def _answering_alike(bare: Contender, name: str, peer: Contender) -> Contender:
    """Refuse to compare servers that do not do the same."""
    own, other = PEERS[name].read(answer_of(peer)[1]), answer_of(bare)[1]["probabilities"][0]
    if not all(isclose(*each, abs_tol=1e-9) for each in zip(own, other, strict=True)):
        raise RuntimeError(f"{name} answers {own}, the bare server {other}")
    return peer


def _mlserver(site: Site, port: int) -> Contender:
    folder = _folder(site, "mlserver")
    settings = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": free_port(),
        "metrics_port": free_port(),
        "parallel_workers": 0,
        "debug": False,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    model = {
        "name": "a",
        "implementation": "mlserver_sklearn.SKLearnModel",
        "max_batch_size": 64,
        "max_batch_time": 0.001,
        "parameters": {"uri": str(site.models.joblib("a"))},
    }
    (folder / "model-settings.json").write_text(json.dumps(model))
    command = (_program("mlserver"), "start", str(folder))
    rows = (f'{{"name": "rows", "shape": [1, 4], "datatype": "FP64", "data": {row}}}' for row in _rows(site))
    bodies = (f'{{"inputs": [{row}], "outputs": [{{"name": "predict_proba"}}]}}' for row in rows)
    return _serving(site, "mlserver", port, command, "/v2/models/a/infer", bodies)


def _bentoml(site: Site, port: int) -> Contender:
    folder = _folder(site, "bentoml")
    (folder / "service.py").write_text(_BENTOML % str(site.models.joblib("a")))
    command = (_program("bentoml"), "serve", "service:Bench", "--port", str(port), "--working-dir", str(folder))
    bodies = (f'{{"inputs": [{row}]}}' for row in _rows(site))
    return _serving(site, "bentoml", port, command, "/predict", bodies)


def _litserve(site: Site, port: int) -> Contender:
    folder = _folder(site, "litserve")
    (folder / "service.py").write_text(_LITSERVE % (str(site.models.joblib("a")), port))
    command = (_program("litserve", "python"), str(folder / "service.py"))
    bodies = (f'{{"inputs": [{row}]}}' for row in _rows(site))
    return _serving(site, "litserve", port, command, "/predict", bodies)


PEERS = {
    "mlserver": Peer(
        packages=("mlserver", "mlserver-sklearn"), start=_mlserver, read=lambda body: body["outputs"][0]["data"]
    ),
    "bentoml": Peer(packages=("bentoml",), start=_bentoml, read=lambda body: body[0]),
    "litserve": Peer(packages=("litserve",), start=_litserve, read=lambda body: body["probabilities"]),
}


def _program(peer: str, name: str = "") -> str:
    return str(ENVIRONMENTS / peer / "bin" / (name or peer))


def _folder(site: Site, name: str) -> Path:
    folder = site.folder / name
    folder.mkdir()
    return folder


def _rows(site: Site) -> list[str]:
    return site.models.trained("a").rows(ROWS)


def _serving(site: Site, name: str, port: int, command: tuple[str, ...], path: str, bodies: Iterator[str]) -> Contender:
    # BentoML would report to its maker, and keeps what it knows at home.
    environment = {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(site.folder / "bentoml-home")}
    log = site.folder / f"{name}.log"
    served = site.stack.enter_context(serving(command, port, cores=site.cores, log=log, environment=environment))
    return Contender(name=name, served=served, requests=[http_request(port, path, each.encode()) for each in bodies])
