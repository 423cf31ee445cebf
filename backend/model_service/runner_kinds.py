"""Every kind of runner by the name that a manifest gives it, and how each is made from a fitted pipeline."""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from backend.domain.models import Task
from backend.model_service.batch import BatchBuilder
from backend.model_service.errors import ModelRefused
from backend.model_service.folded import fold
from backend.model_service.runners import SCIKIT_LEARN, Runner, SklearnRunner
from backend.model_service.treelite_runner import compile_trees

MakeRunner: TypeAlias = Callable[[Any, Task, BatchBuilder], Runner]

FOLDED_LINEAR: Final = "folded-linear"
TREELITE: Final = "treelite"

FASTER_RUNNERS: Final[dict[str, MakeRunner]] = {FOLDED_LINEAR: fold, TREELITE: compile_trees}
"""What may stand in for scikit-learn where the parity gate lets it."""


def make_runner(name: str, model: Any, task: Task, builder: BatchBuilder) -> Runner:
    """Make the runner that a manifest names.

    Raises:
        ModelRefused: there is no such runner.
        RunnerUnsuited: it cannot serve this model.
    """
    if name == SCIKIT_LEARN:
        return SklearnRunner(model, task, builder)
    if name not in FASTER_RUNNERS:
        raise ModelRefused("The manifest names a runner that this release does not have.")
    return FASTER_RUNNERS[name](model, task, builder)
