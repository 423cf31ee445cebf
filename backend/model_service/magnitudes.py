"""How large a number each input may be: what is larger overflows somewhere inside the model, which has no answer then.

Forests keep their rows as ``float32``, which ends at 3.4e38; a scaler before one moves that point; an exponential at
the end of a model brings it down to some hundreds. Nothing here knows the model: it is asked with larger and larger
numbers, and the largest that it computes with becomes the feature's limit. A row with a larger one is the caller's
mistake, and is told so with its place before it reaches any queue.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from backend.domain.models import Feature, FeatureType, OutputOptions
from backend.model_service.manifest import Row, Scalar
from backend.model_service.runners import Runner

_SINGLE: Final = float(np.finfo(np.float32).max)
_DOUBLE: Final = float(np.finfo(np.float64).max)
_LARGEST_INTEGER: Final = 2**63 - 1
_NUMBERS: Final = (FeatureType.FLOAT, FeatureType.INTEGER)
_HALVINGS: Final = 160
_ROOM: Final = 16.0
"""A limit is never below what the sample holds, times this: a model that fails there is faulty, not overflowing."""
_MOST_FEATURES: Final = 256
"""With more of them only the limits of the float types are tried."""


def with_limits(inputs: Sequence[Feature], rows: Sequence[Row], *runners: Runner) -> tuple[Feature, ...]:
    """Return the inputs with the largest magnitudes that every one of some runners computes with."""
    places = [place for place, feature in enumerate(inputs) if feature.type in _NUMBERS and feature.categories is None]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        limits = _limits(inputs, rows, places, runners) if places else {}
    return tuple(
        replace(feature, limit=limits[place]) if place in limits else feature for place, feature in enumerate(inputs)
    )


def _limits(
    inputs: Sequence[Feature], rows: Sequence[Row], places: Sequence[int], runners: Sequence[Runner]
) -> dict[int, float]:
    def answers(limits: dict[int, float]) -> bool:
        return _answer_all(runners, _at(inputs, rows[0], limits))

    if answers(dict.fromkeys(places, _DOUBLE)):
        return {}
    limits = dict.fromkeys(places, _SINGLE)
    if answers(limits) or len(places) > _MOST_FEATURES:
        return limits
    least = {place: _ROOM * max([1.0, *_magnitudes(rows, place)]) for place in places}
    for place in places:
        while limits[place] > least[place] and not answers({place: limits[place]}):
            limits[place] /= 2
    # Each alone is not all at once: what was lowered before is lowered further, together.
    for _ in range(_HALVINGS):
        if answers(limits):
            break
        limits = {place: limit if limit == _SINGLE else max(limit / 2, least[place]) for place, limit in limits.items()}
    return {place: max(limit, least[place]) for place, limit in limits.items()}


def _at(inputs: Sequence[Feature], base: Row, limits: dict[int, float]) -> list[Row]:
    """Return the base row with each number at its limit alone, with either sign, and with all of them there."""
    alternating = {place: -limit if place % 2 else limit for place, limit in limits.items()}
    all_below = {place: -limit for place, limit in limits.items()}
    together = [_changed(inputs, base, numbers) for numbers in (limits, all_below, alternating)]
    return together + [
        _changed(inputs, base, {place: sign * limit}) for place, limit in limits.items() for sign in (1, -1)
    ]


def _changed(inputs: Sequence[Feature], base: Row, numbers: dict[int, float]) -> Row:
    row = list(base)
    for place, number in numbers.items():
        row[place] = _number(inputs[place], number)
    return tuple(row)


def _number(feature: Feature, number: float) -> Scalar:
    if feature.type is FeatureType.FLOAT:
        return number
    return int(max(-_LARGEST_INTEGER, min(_LARGEST_INTEGER, number)))


def _magnitudes(rows: Sequence[Row], place: int) -> list[float]:
    return [abs(value) for row in rows if isinstance(value := row[place], int | float)]


def _answer_all(runners: Sequence[Runner], rows: Sequence[Row]) -> bool:
    try:
        for runner in runners:
            runner.predict(rows, OutputOptions())
    except Exception:  # noqa: BLE001 - whatever a model raises, it has no answer
        return False
    return True
