"""Other model servers beside ours, where they are installed: ``scripts/bench --peers mlserver,bentoml,litserve``.

None of them is a dependency of this project. Each serves model A as its own documentation shows, on the same core, with
what it has for batching switched on; none of them knows a credential, a limit or a bill.
"""

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.bench.load import http_request
from tests.bench.models import ROWS
from tests.bench.processes import free_port, python, serving
from tests.bench.site import Site
from tests.bench.table import Comparison, Contender

CONNECTIONS = 16

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


def is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def peers_of(
    names: Sequence[str], *, is_installed: Callable[[str], bool] = is_installed
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return those of some peers that are installed, and a sentence for each that is not.

    Raises:
        ValueError: a name is none of :data:`PEERS`.
    """
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise ValueError(f"no such peer: {', '.join(unknown)}; there are {', '.join(PEERS)}")
    remedy = "{0} is not installed: `var/venv/bin/pip install {0}` puts it beside the rest"
    found = tuple(name for name in names if is_installed(name))
    return found, tuple(remedy.format(name) for name in names if name not in found)


def peer_comparison(site: Site, names: Sequence[str]) -> Iterator[Comparison]:
    """Yield the comparison with some peers, which are started when it comes up."""
    if names:
        peers = [PEERS[name](site, free_port()) for name in names]
        contenders = (site.bare("sklearn", "a"), site.ours("server").asked("a"), *peers)
        yield Comparison(name="A, peers", connections=CONNECTIONS, contenders=contenders)


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
    command = (str(Path(sys.executable).with_name("mlserver")), "start", str(folder))
    rows = (f'{{"name": "rows", "shape": [1, 4], "datatype": "FP64", "data": {row}}}' for row in _rows(site))
    bodies = (f'{{"inputs": [{row}], "outputs": [{{"name": "predict_proba"}}]}}' for row in rows)
    return _serving(site, "mlserver", port, command, "/v2/models/a/infer", bodies)


def _bentoml(site: Site, port: int) -> Contender:
    folder = _folder(site, "bentoml")
    (folder / "service.py").write_text(_BENTOML % str(site.models.joblib("a")))
    command = python("bentoml", "serve", "service:Bench", "--port", str(port), "--working-dir", str(folder))
    bodies = (f'{{"inputs": [{row}]}}' for row in _rows(site))
    return _serving(site, "bentoml", port, command, "/predict", bodies)


def _litserve(site: Site, port: int) -> Contender:
    folder = _folder(site, "litserve")
    (folder / "service.py").write_text(_LITSERVE % (str(site.models.joblib("a")), port))
    command = (sys.executable, str(folder / "service.py"))
    bodies = (f'{{"inputs": [{row}]}}' for row in _rows(site))
    return _serving(site, "litserve", port, command, "/predict", bodies)


PEERS: dict[str, Callable[[Site, int], Contender]] = {
    "mlserver": _mlserver,
    "bentoml": _bentoml,
    "litserve": _litserve,
}


def _folder(site: Site, name: str) -> Path:
    folder = site.folder / name
    folder.mkdir()
    return folder


def _rows(site: Site) -> list[str]:
    return site.models.trained("a").rows(ROWS)


def _serving(site: Site, name: str, port: int, command: tuple[str, ...], path: str, bodies: Iterator[str]) -> Contender:
    served = site.stack.enter_context(serving(command, port, cores=site.cores, log=site.folder / f"{name}.log"))
    return Contender(name=name, served=served, requests=[http_request(port, path, each.encode()) for each in bodies])
