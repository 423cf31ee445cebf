"""The sample: a CSV file of rows that the model may be given, and what can be learnt from it about the inputs."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from backend.domain.models import Feature, FeatureType
from backend.model_service.encoders import EncodedColumn, encoded_columns
from backend.model_service.errors import RegistrationError
from backend.model_service.manifest import Container, Row, Scalar
from backend.model_service.values import category_text

_KINDS: Final[dict[str, FeatureType]] = {
    "Float64": FeatureType.FLOAT,
    "Int64": FeatureType.INTEGER,
    "boolean": FeatureType.BOOLEAN,
    "string": FeatureType.STRING,
}
_AS_PYTHON: Final[dict[FeatureType, Callable[[Any], Scalar]]] = {
    FeatureType.FLOAT: float,
    FeatureType.INTEGER: int,
    FeatureType.BOOLEAN: bool,
    FeatureType.STRING: str,
}

Predicts = Callable[[pd.DataFrame], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The usable rows of a file.

    ``frame`` is what ``pandas.read_csv`` makes of them, which pipelines are fitted on; ``rows`` is what a caller would
    send. ``target`` holds the texts of the target column, row by row. ``notes`` are for the operator.
    """

    frame: pd.DataFrame
    rows: tuple[Row, ...]
    target: tuple[str, ...] | None
    inputs: tuple[Feature, ...]
    notes: tuple[str, ...]


def read_sample(path: Path, pipeline: Any, *, target: str | None, predicts: Predicts) -> Sample:
    """Read a sample and infer the typed inputs of a fitted pipeline from both.

    Args:
        path: CSV with a header.
        pipeline: knows its columns' names, or at least their number.
        target: the column that holds the truth, if any.
        predicts: whether the pipeline predicts a frame of its inputs, used to find out where it takes gaps.

    Raises:
        RegistrationError: the file does not fit the pipeline.
    """
    header = _header(path)
    if target is not None and target not in header:
        raise RegistrationError(f"The sample has no column {target!r}, which was named as the target.")
    names = _input_names(header, pipeline, target)
    encoded = encoded_columns(pipeline, names)
    frame, typed = _read(path, names, encoded)
    nullable = {name for name in names if _takes_gaps(frame, name, predicts)}
    usable = ~frame[[name for name in names if name not in nullable]].isna().any(axis=1)
    truth = _truth(path, target)
    if truth is not None:
        usable &= truth != ""
    if not usable.any():
        raise RegistrationError("No row of the sample is complete: fill the gaps, or impute in the pipeline.")
    rows = _rows(typed[usable], names)
    return Sample(
        frame=frame[usable].reset_index(drop=True),
        rows=rows,
        target=None if truth is None else tuple(truth[usable]),
        inputs=tuple(
            _feature(name, typed[name].dtype.name, encoded.get(name), name in nullable, rows[0][place])
            for place, name in enumerate(names)
        ),
        notes=_notes(header, names, target, int((~usable).sum())),
    )


def as_container(frame: pd.DataFrame, container: Container) -> Any:
    """Return a frame as its pipeline's author would pass it on: itself, or its values."""
    if container is Container.FRAME:
        return frame
    numeric = all(pd.api.types.is_numeric_dtype(dtype) for dtype in frame.dtypes)
    return frame.to_numpy(dtype=np.float64 if numeric else np.object_)


def _header(path: Path) -> list[str]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = next(csv.reader(file), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RegistrationError(f"The sample cannot be read as CSV: {type(error).__name__}.") from error
    if not header or not all(header):
        raise RegistrationError("The sample's first line must name every column.")
    repeated = {name for name in header if header.count(name) > 1}
    if repeated:
        raise RegistrationError(f"The sample names the column {min(repeated)!r} twice.")
    return header


def _input_names(header: Sequence[str], pipeline: Any, target: str | None) -> list[str]:
    candidates = [name for name in header if name != target]
    known = getattr(pipeline, "feature_names_in_", None)
    if known is not None:
        missing = [str(name) for name in known if name not in candidates]
        if missing:
            raise RegistrationError(f"The sample has no column {missing[0]!r}, which the pipeline was fitted on.")
        return [str(name) for name in known]
    width = getattr(pipeline, "n_features_in_", len(candidates))
    if width != len(candidates):
        raise RegistrationError(
            f"The pipeline takes {width} inputs and the sample has {len(candidates)} columns besides the target."
        )
    return candidates


def _read(path: Path, names: list[str], encoded: dict[str, EncodedColumn]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the inputs twice: as pipelines are fitted on them, and with types that tell an integer with gaps."""
    texts = {name: "str" for name, column in encoded.items() if column.is_text}
    try:
        frame = pd.read_csv(path, usecols=names, dtype=texts, encoding="utf-8-sig")[names]
        typed = pd.read_csv(
            path,
            usecols=names,
            dtype=dict.fromkeys(texts, "string"),
            dtype_backend="numpy_nullable",
            encoding="utf-8-sig",
        )[names]
    except (ValueError, OSError) as error:
        raise RegistrationError(f"The sample cannot be read as CSV: {type(error).__name__}.") from error
    if frame.empty:
        raise RegistrationError("The sample has a header and no rows.")
    for name in names:
        if typed[name].dtype.name not in _KINDS:
            raise RegistrationError(f"The sample's column {name!r} holds no values, or values of several types.")
    return frame, typed


def _truth(path: Path, target: str | None) -> "pd.Series[str] | None":
    if target is None:
        return None
    # As texts, and with no text taken for a gap: a class may well be called "NA".
    column = pd.read_csv(path, usecols=[target], dtype="str", keep_default_na=False, encoding="utf-8-sig")
    return column[target]


def _takes_gaps(frame: pd.DataFrame, name: str, predicts: Predicts) -> bool:
    gaps = frame[name].isna()
    if not gaps.any():
        return False
    # A row whose only gap is this one, if there is one: another gap could be what the pipeline refuses.
    others = frame.drop(columns=name).isna().any(axis=1)
    alone = frame[gaps & ~others]
    return predicts((alone if len(alone) else frame[gaps]).head(1))


def _rows(typed: pd.DataFrame, names: Sequence[str]) -> tuple[Row, ...]:
    columns = []
    for name in names:
        convert = _AS_PYTHON[_KINDS[typed[name].dtype.name]]
        columns.append([None if value is pd.NA else convert(value) for value in typed[name]])
    return tuple(zip(*columns, strict=True))


def _feature(name: str, dtype: str, encoded: EncodedColumn | None, nullable: bool, example: Scalar) -> Feature:
    kind = _KINDS[dtype]
    categories = None
    if encoded is not None and encoded.closed:
        convert = _AS_PYTHON[kind]
        try:
            categories = tuple(category_text(convert(value)) for value in encoded.categories)
        except ValueError as error:
            raise RegistrationError(
                f"The sample's column {name!r} does not look like the encoder's categories."
            ) from error
    return Feature(name=name, type=kind, nullable=nullable, categories=categories, example=example)


def _notes(header: Sequence[str], names: Sequence[str], target: str | None, dropped: int) -> tuple[str, ...]:
    notes = [f"column {name} is not an input and was left out" for name in header if name not in {*names, target}]
    if dropped:
        notes.append(f"{dropped} sample rows with gaps that the pipeline does not take were left out")
    return tuple(notes)
