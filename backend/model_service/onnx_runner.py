"""A fitted pipeline that was converted to ONNX, run by onnxruntime: a few microseconds a row, where it is exact.

The extra ``onnx`` installs what this needs. The graph is an artifact of its own beside the pipeline: the manifest holds
its name and its SHA-256, which is compared before a byte of it is parsed. The pipeline stays the reference, and whoever
cannot run the graph serves the pipeline.

A graph of trees adds its votes as ``float32``. Where two classes come so close that this could have decided between
them, the row is answered by scikit-learn.
"""

import os
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from backend.domain.models import Feature, FeatureType, OutputOptions, Task
from backend.model_service.batch import BatchBuilder
from backend.model_service.errors import RunnerUnsuited, WrongAnswer
from backend.model_service.manifest import Row
from backend.model_service.runners import Columns, Label, Runner, class_labels, finite

# Since 1.29 onnxruntime reports to its maker what runs in it, unless this stands in the environment when it is loaded.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

try:
    import onnxruntime
except ImportError:
    onnxruntime = None

ONNX: Final = "onnxruntime"
ONNX_FILE: Final = "model.onnx"
NOT_INSTALLED: Final = "the extra `onnx` is not installed here: pip install 'forecourt[onnx]'"

_ON_THE_FENCE: Final = 1e-5
_MATRIX: Final = "rows"
_DTYPES: Final[dict[str, Any]] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(string)": np.object_,
}


class OnnxRunner:
    """A graph, and the pipeline that it was made from for the rows on the fence.

    Args:
        artifact: the graph's bytes.
        model: the fitted pipeline.
        reference: answers as the pipeline.
        builder: knows the columns.
        runtime: the library; none where it is not installed.

    Raises:
        RunnerUnsuited: the library is not there, or does not take the graph.
    """

    def __init__(
        self, artifact: bytes, model: Any, task: Task, reference: Runner, builder: BatchBuilder, *, runtime: Any
    ) -> None:
        if runtime is None:
            raise RunnerUnsuited(NOT_INSTALLED)
        self.artifact = artifact
        self._builder = builder
        self._reference = reference
        self._classes: dict[Label, Label] = (
            {label: label for label in class_labels(model)} if task is Task.CLASSIFICATION else {}
        )
        self._has_probabilities = hasattr(model, "predict_proba")
        self._session = _session(artifact, runtime)
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._inputs = [(each.name, _DTYPES.get(each.type)) for each in self._session.get_inputs()]
        if any(dtype is None for _, dtype in self._inputs):
            raise RunnerUnsuited("its graph takes inputs of a type that is not known here")

    def predict(self, rows: Sequence[Row], options: OutputOptions) -> Columns:
        """Predict rows."""
        return self._columns(self._feed(rows), rows, options)

    def _columns(self, feed: dict[str, Any], rows: Sequence[Row], options: OutputOptions) -> Columns:
        if not self._classes:
            [values] = self._session.run(self._outputs[:1], feed)
            return Columns(values=finite(np.reshape(values, -1), (len(rows),)))
        if not self._has_probabilities:
            [found] = self._session.run(self._outputs[:1], feed)
            return Columns(labels=self._labels(found, len(rows)))
        found, chances = self._session.run(self._outputs[:2], feed)
        labels = self._labels(found, len(rows))
        probabilities = finite(chances, (len(rows), len(self._classes))).copy()
        # Votes that were added as float32 may come to a little more than one, or less than none.
        np.clip(probabilities, 0.0, 1.0, out=probabilities)
        self._settle(rows, labels, probabilities)
        return Columns(labels=labels, probabilities=probabilities if options.probabilities else None)

    def _labels(self, found: Any, count: int) -> list[Label]:
        # As the pipeline spells them: the graph makes a number of true.
        labels = [self._classes[label] for label in found.tolist()]
        if len(labels) != count:
            raise WrongAnswer("The graph did not give one label per row.")
        return labels

    def _settle(self, rows: Sequence[Row], labels: list[Label], probabilities: NDArray[np.float64]) -> None:
        """Let scikit-learn answer the rows of which two classes are almost the same."""
        if probabilities.shape[1] == 1:
            return
        highest = np.partition(probabilities, -2, axis=1)
        places: list[int] = np.flatnonzero(highest[:, -1] - highest[:, -2] < _ON_THE_FENCE).tolist()
        if not places:
            return
        exact = self._reference.predict([rows[place] for place in places], OutputOptions())
        for at, place in enumerate(places):
            labels[place] = (exact.labels or ())[at]
            if exact.probabilities is not None:
                probabilities[place] = exact.probabilities[at]

    def _feed(self, rows: Sequence[Row]) -> dict[str, Any]:
        if len(self._inputs) == 1 and self._inputs[0][0] == _MATRIX:
            dtype = self._inputs[0][1]
            return {_MATRIX: _cast(self._builder.matrix(rows), dtype)}
        columns = zip(self._inputs, zip(*rows, strict=True), strict=True)
        return {name: _column(values, dtype) for (name, dtype), values in columns}


def _session(artifact: bytes, runtime: Any) -> Any:
    options = runtime.SessionOptions()
    # One thread, the caller's: workers of a pool would fight with other processes over the cores, and spin meanwhile.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4
    try:
        return runtime.InferenceSession(artifact, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        # Its errors have no common class.
        raise RunnerUnsuited(f"onnxruntime does not take its graph ({type(error).__name__})") from error


def input_name(feature: Feature, *, is_matrix: bool) -> str:
    """Return how a graph calls an input: all of them together, or each by its own name."""
    return _MATRIX if is_matrix else feature.name


def takes_text(feature: Feature) -> bool:
    """Whether a column is texts to the graph."""
    return feature.type is FeatureType.STRING


def _cast(matrix: Any, dtype: Any) -> Any:
    with np.errstate(over="ignore"):
        cast = matrix.astype(dtype, copy=False)
    # scikit-learn refuses what is too large for float32, and a graph would go on with infinity.
    if dtype is np.float32 and np.isinf(cast).any():
        raise ValueError("the rows do not fit the graph")
    return cast


def _column(values: Sequence[Any], dtype: Any) -> Any:
    if dtype is np.object_:
        if None in values:
            raise ValueError("a graph has no text that is missing")
        return np.array(values, dtype=np.object_).reshape(-1, 1)
    return _cast(np.array(values, dtype=np.float64 if dtype is not np.int64 else np.int64), dtype).reshape(-1, 1)


def load_graph(artifact: bytes, model: Any, task: Task, reference: Runner, builder: BatchBuilder) -> OnnxRunner:
    """Make the runner from a graph whose digest has been compared.

    Raises:
        RunnerUnsuited: it cannot be run here.
    """
    return OnnxRunner(artifact, model, task, reference, builder, runtime=onnxruntime)
