"""What a first start shows: models that train in seconds, and data to look at. Never used in production."""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from backend.demo.models import train_demo_models
    from backend.demo.setup import DEMO_FILE, one_at_a_time, prepare_environment, set_up

__all__ = ["DEMO_FILE", "MODELS", "one_at_a_time", "prepare_environment", "set_up", "train_demo_models"]

MODELS: Final = ("iris", "breast-cancer", "wine", "diabetes")

_LATE: Final = {
    "DEMO_FILE": "backend.demo.setup",
    "one_at_a_time": "backend.demo.setup",
    "prepare_environment": "backend.demo.setup",
    "set_up": "backend.demo.setup",
    "train_demo_models": "backend.demo.models",
}


def __getattr__(name: str) -> object:
    """Import the demo when it is first asked for, and what trains models when one is missing (PEP 562)."""
    if name in _LATE:
        return getattr(import_module(_LATE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
