"""What a fitted pipeline's own encoders know of its columns: the categories, and whether others are refused."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

from backend.model_service.manifest import Scalar


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedColumn:
    """The categories of one column, nulls left out; ``closed``: the pipeline refuses any other value."""

    categories: tuple[Scalar, ...]
    closed: bool

    @property
    def is_text(self) -> bool:
        """Whether the encoder was fitted on texts, whatever the column looks like in a file."""
        return bool(self.categories) and all(isinstance(value, str) for value in self.categories)


def encoded_columns(pipeline: object, names: Sequence[str]) -> dict[str, EncodedColumn]:
    """Find the columns that an encoder reads as they were sent; one behind another step is not looked for."""
    found: dict[str, EncodedColumn] = {}
    _collect(pipeline, list(names), found)
    return found


def _collect(step: Any, columns: list[str], found: dict[str, EncodedColumn]) -> None:
    if isinstance(step, Pipeline):
        for _, inner in step.steps:
            # An imputer fills gaps and leaves the values alone; anything else makes other columns.
            if not isinstance(inner, SimpleImputer):
                _collect(inner, columns, found)
                return
    elif isinstance(step, ColumnTransformer):
        for _, transformer, chosen in step.transformers_:
            _collect(transformer, _chosen(chosen, columns), found)
    elif isinstance(step, OneHotEncoder | OrdinalEncoder) and len(step.categories_) == len(columns):
        for column, categories in zip(columns, step.categories_, strict=True):
            known = EncodedColumn(
                categories=tuple(value for value in categories.tolist() if not _is_null(value)),
                closed=step.handle_unknown == "error",
            )
            if column not in found or not found[column].closed:
                found[column] = known


def _chosen(chosen: Any, columns: list[str]) -> list[str]:
    """Return the names behind a fitted ColumnTransformer's columns: names, places, a slice or a mask."""
    if isinstance(chosen, str):
        return [chosen]
    if isinstance(chosen, slice):
        return columns[chosen] if not isinstance(chosen.start or chosen.stop, str) else []
    places = np.atleast_1d(np.asarray(chosen))
    if places.dtype.kind in "OUT":
        return [str(name) for name in places]
    return [str(name) for name in np.asarray(columns, dtype=object)[places]]


def _is_null(value: object) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value))
