"""Which tests of a run in several processes stay in one, and which come first."""

from typing import Any

from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]  # it ships no types

TOGETHER = frozenset(
    {
        "tests/api/test_fuzz.py",
        "tests/contracts/test_exports.py",
        "tests/integration/demo/test_demo_models.py",
        "tests/integration/test_caps_over_replicas.py",
        "tests/integration/test_demo_start.py",
        "tests/integration/test_operator_commands.py",
        "tests/integration/test_readme.py",
    }
)
"""Modules whose tests share what takes long to start; in several processes it would be started in each."""

FIRST = "tests/integration/"


class SharedTogether(LoadScopeScheduling):  # type: ignore[misc]  # of an untyped library
    """Gives a process one module of those that share something, or all cases of one test, whenever it has little left.

    In the order of collection: the integration tests, the longest of all, come first, so that none of them is what
    everybody waits for in the end.
    """

    def __init__(self, config: Any, log: Any) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        module = str(nodeid).partition("::")[0]
        return module if module in TOGETHER else str(nodeid).partition("[")[0]
