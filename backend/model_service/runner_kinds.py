"""Every kind of runner by the name that a manifest gives it, and how each is made from a fitted pipeline."""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from backend.domain.models import Task
from backend.model_service.batch import BatchBuilder
from backend.model_service.errors import ModelRefused
from backend.model_service.folded import fold
from backend.model_service.onnx_runner import ONNX, load_graph
from backend.model_service.runners import SCIKIT_LEARN, Runner, SklearnRunner
from backend.model_service.treelite_runner import compile_trees

MakeRunner: TypeAlias = Callable[[Any, Task, BatchBuilder], Runner]

FOLDED_LINEAR: Final = "folded-linear"
TREELITE: Final = "treelite"

REBUILT: Final[dict[str, MakeRunner]] = {FOLDED_LINEAR: fold, TREELITE: compile_trees}
"""Those that are made from the fitted pipeline alone, wherever it is loaded."""


def make_runner(name: str, model: Any, task: Task, builder: BatchBuilder, artifact: bytes | None = None) -> Runner:
    """Make the runner that a manifest names, from its own artifact where it has one.

    Raises:
        ModelRefused: there is no such runner.
        RunnerUnsuited: it cannot serve this model.
    """
    reference = SklearnRunner(model, task, builder)
    if name == SCIKIT_LEARN:
        return reference
    if name == ONNX:
        # What serves is what was compared and signed, never a graph that is converted anew.
        if artifact is None:
            raise ModelRefused("The manifest names no graph for its runner.")
        return load_graph(artifact, model, task, reference, builder)
    if name not in REBUILT:
        raise ModelRefused("The manifest names a runner that this release does not have.")
    return REBUILT[name](model, task, builder)
