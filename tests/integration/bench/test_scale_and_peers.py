"""What the further tables of ``scripts/bench`` make of what was measured, and of what is not there."""

from pathlib import Path

import pytest
import sklearn

from tests.bench.load import Measured
from tests.bench.machine import Cores
from tests.bench.peers import peers_of
from tests.bench.scale import HEADER, Costs, cells


def load(ok: int, p50_us: float) -> Measured:
    times = {"p50_us": p50_us, "p90_us": p50_us, "p99_us": 2 * p50_us, "max_us": 3 * p50_us}
    return Measured(answers=ok, ok=ok, refused=0, failed=0, broken=0, seconds=2.0, cpu_s=0.1, **times)


def test_replicas_are_added_up_and_the_slower_one_counts() -> None:
    turn = Costs(loads=[load(600, 1_000), load(400, 2_000)], server_s=0.2, stores_s=0.05)
    assert dict(zip(HEADER, cells([turn]), strict=True)) == {
        "predictions/s": "500",
        "p50 ms": "2.00",
        "p99 ms": "4.00",
        "CPU µs a request": "200",
        "CPU µs of the stores": "50",
    }


def test_a_table_holds_the_medians_of_its_turns() -> None:
    turns = [Costs(loads=[load(ok, 1_000)], server_s=1.0, stores_s=0.0) for ok in (100, 1_000, 10_000)]
    assert cells(turns)[0] == "500"
    assert cells(turns)[3] == "1,000"


def test_a_second_server_has_the_cores_the_other_way_round() -> None:
    cores = Cores(server=frozenset({0}), others=frozenset({1, 2}))
    assert cores.turned() == Cores(server=frozenset({1, 2}), others=frozenset({0}))


def test_a_peer_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match="no such peer: torchserve; there are mlserver, bentoml, litserve"):
        peers_of(("torchserve",))


def test_a_peer_that_is_not_installed_is_named_with_its_remedy(tmp_path: Path) -> None:
    program = tmp_path / "litserve" / "bin" / "litserve"
    program.parent.mkdir(parents=True)
    program.touch()
    found, (missing,) = peers_of(("mlserver", "litserve"), environments=tmp_path)
    assert found == ("litserve",)
    assert missing.startswith(
        "mlserver is not installed: `python3 -m venv var/peers/mlserver && var/peers/mlserver/bin/pip"
    )
    assert f"install mlserver mlserver-sklearn scikit-learn=={sklearn.__version__}`" in missing
