"""From a fitted pipeline to an ONNX graph, at registration. What the graph is worth is for the parity gate to find.

Forests and boosting get rows of ``float32``, as scikit-learn casts them, everything else rows of ``float64`` where its
converter knows them. Not tried: trees in places where no row can be made to lie on their splits, for there a converter
is wrong without anybody noticing; and text vectorizers, whose words a graph splits by other rules.
"""

import logging
import warnings
from collections.abc import Iterator
from typing import Any, Final

from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler

from backend.domain.models import Feature, FeatureType, Task
from backend.model_service.batch import BatchBuilder
from backend.model_service.errors import RunnerUnsuited
from backend.model_service.fitted import reachable
from backend.model_service.onnx_runner import NOT_INSTALLED, OnnxRunner, input_name, load_graph, takes_text
from backend.model_service.probes import PROBED_TREES
from backend.model_service.runners import SklearnRunner, apart

try:
    import skl2onnx
    import skl2onnx.common.data_types as tensor_types
except ImportError:
    skl2onnx = None

_INVERTIBLE: Final = (StandardScaler, MinMaxScaler, MaxAbsScaler, RobustScaler)
_HIST: Final = "HistGradientBoosting"


def convert(model: Any, task: Task, builder: BatchBuilder, *, converter: Any = skl2onnx) -> OnnxRunner:
    """Convert a fitted pipeline and load what came out.

    Raises:
        RunnerUnsuited: the extra is not installed, or the pipeline cannot be converted, or not be compared.
    """
    if converter is None:
        raise RunnerUnsuited(NOT_INSTALLED)
    _require_comparable(model)
    is_matrix = not any(isinstance(part, ColumnTransformer) for part in reachable(model))
    if is_matrix and not builder.is_numeric:
        raise RunnerUnsuited("it reads texts in a way that is not converted")
    reference = SklearnRunner(model, task, builder)
    why = ""
    for number in _precisions(model):
        try:
            graph = _graph(model, task, builder, number, is_matrix=is_matrix, converter=converter)
            return load_graph(graph, model, task, reference, builder)
        except RunnerUnsuited as unsuited:
            why = str(unsuited)
    raise RunnerUnsuited(why)


def _require_comparable(model: Any) -> None:
    prepare = [step for _, step in model.steps[:-1]] if type(model) is Pipeline else []
    _, final = apart(model)
    for part in reachable(model):
        if isinstance(part, CountVectorizer | HashingVectorizer):
            raise RunnerUnsuited("it splits texts into words, which a graph does by other rules")
    holds_trees = any(hasattr(part, "tree_") or hasattr(part, "_predictors") for part in reachable(model))
    if holds_trees and type(final) not in PROBED_TREES:
        raise RunnerUnsuited("it holds trees in a place where their splits cannot be probed")
    if holds_trees and not all(isinstance(step, _INVERTIBLE) for step in prepare):
        raise RunnerUnsuited("its trees stand behind a step through which their splits cannot be probed")


def _precisions(model: Any) -> Iterator[str]:
    _, final = apart(model)
    if type(final) not in PROBED_TREES or type(final).__name__.startswith(_HIST):
        yield "DoubleTensorType"
    yield "FloatTensorType"


def _graph(model: Any, task: Task, builder: BatchBuilder, number: str, *, is_matrix: bool, converter: Any) -> bytes:
    numbers = getattr(tensor_types, number)
    if is_matrix:
        first = builder.inputs[0]
        inputs = [(input_name(first, is_matrix=True), numbers([None, len(builder.inputs)]))]
    else:
        inputs = [(each.name, _column_type(each, numbers)) for each in builder.inputs]
    options = {"zipmap": False} if task is Task.CLASSIFICATION else None
    logging.getLogger("skl2onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is to come in other releases of what it calls
            graph: bytes = converter.to_onnx(model, initial_types=inputs, options=options).SerializeToString()
    except Exception as error:
        # Converters raise whatever they did not expect.
        raise RunnerUnsuited(f"skl2onnx does not convert it ({type(error).__name__})") from error
    return graph


def _column_type(feature: Feature, numbers: Any) -> Any:
    if takes_text(feature):
        return tensor_types.StringTensorType([None, 1])
    if feature.type is FeatureType.INTEGER and not feature.nullable:
        return tensor_types.Int64TensorType([None, 1])
    return numbers([None, 1])
