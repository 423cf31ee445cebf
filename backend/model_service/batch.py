"""Rows of several requests as what a model takes: an array or a data frame, built once per batch."""

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from backend.domain.models import Feature, FeatureType
from backend.model_service.manifest import Container, Row

Matrix: TypeAlias = NDArray[np.float64] | NDArray[np.object_]

_ANY: Final = np.dtype(np.object_)
_TEXT: Final[Any] = pd.StringDtype(na_value=np.nan)
"""What pandas 3 calls ``str``: the dtype that a column of texts has after ``read_csv``."""


class BatchBuilder:
    """Knows the columns of one model; shared by all its batches."""

    def __init__(self, inputs: Sequence[Feature], container: Container) -> None:
        self.inputs = tuple(inputs)
        self._container = container
        self._dtypes = tuple(_frame_dtype(feature) for feature in inputs)
        self._names = tuple(feature.name for feature in inputs)
        self._index = pd.Index(self._names)
        self._all_float = all(dtype == np.dtype(np.float64) for dtype in self._dtypes)
        texts = any(feature.type is FeatureType.STRING for feature in inputs)
        self._matrix_dtype: Any = np.object_ if texts else np.float64

    @property
    def is_numeric(self) -> bool:
        """Whether rows are numbers, with no texts among them."""
        return self._matrix_dtype is np.float64

    def build(self, rows: Sequence[Row]) -> Matrix | pd.DataFrame:
        """Return the rows in the container that the pipeline was fitted on; a null becomes NaN."""
        return self.frame(rows) if self._container is Container.FRAME else self.matrix(rows)

    def matrix(self, rows: Sequence[Row]) -> Matrix:
        """Return a C-ordered array: float64, or objects where a feature is a text."""
        array: Matrix = np.array(rows, dtype=self._matrix_dtype, order="C")
        if self._matrix_dtype is np.object_:
            array[array == None] = np.nan  # noqa: E711 - element by element
        return array

    def frame(self, rows: Sequence[Row]) -> pd.DataFrame:
        """Return a frame with the dtypes that ``pandas.read_csv`` would give such columns."""
        if self._all_float:
            return pd.DataFrame(np.array(rows, dtype=np.float64), columns=self._index)
        columns = {
            name: _column(values, dtype)
            for name, dtype, values in zip(self._names, self._dtypes, zip(*rows, strict=True), strict=True)
        }
        # Arrays made here belong to nobody else, so the frame need not copy them.
        return pd.DataFrame(columns, copy=False)


def _column(values: Sequence[Any], dtype: Any) -> Any:
    if dtype is _TEXT:
        return pd.array(values, dtype=dtype)
    if dtype == _ANY:
        # Not None: read_csv marks every gap with NaN.
        return np.array([np.nan if value is None else value for value in values], dtype=dtype)
    return np.array(values, dtype=dtype)


def _frame_dtype(feature: Feature) -> Any:
    if feature.type is FeatureType.STRING:
        return _TEXT
    if feature.type is FeatureType.BOOLEAN:
        return _ANY if feature.nullable else np.dtype(np.bool_)
    if feature.type is FeatureType.INTEGER and not feature.nullable:
        return np.dtype(np.int64)
    # Integers with gaps are floats to pandas.
    return np.dtype(np.float64)
