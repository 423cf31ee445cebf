"""What a first start shows: models that train in seconds, and data to look at. Never used in production."""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from backend.demo.setup import DEMO_FILE, one_at_a_time, prepare_environment, set_up

__all__ = ["DEMO_FILE", "one_at_a_time", "prepare_environment", "set_up"]

_SETUP: Final = "backend.demo.setup"


def __getattr__(name: str) -> object:
    """Import what trains models when it is first asked for (PEP 562): most commands only know that there is a demo."""
    if name in __all__:
        return getattr(import_module(_SETUP), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
