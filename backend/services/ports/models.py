"""The shared model service, as predictions see it."""

from collections.abc import Sequence
from typing import Protocol

from backend.domain.models import ModelInfo, ModelRef, ModelSummary, OutputOptions


class EncodedRows(Protocol):
    """Rows of one request that passed validation, ready for the model."""

    @property
    def count(self) -> int:
        """How many rows there are."""
        ...

    def canonical(self, index: int) -> bytes:
        """Return the one spelling of a row: equal rows, however they were sent, have equal bytes."""
        ...


class ServedModel(Protocol):
    """One loaded version of a model."""

    @property
    def info(self) -> ModelInfo:
        """What is told about it."""
        ...

    def encode(self, inputs: Sequence[object]) -> EncodedRows:
        """Validate rows (lists in feature order, or objects by feature name).

        Raises:
            SchemaMismatch: with a pointer to each wrong place, up to a bounded number.
        """
        ...

    async def run(
        self, rows: EncodedRows, indices: Sequence[int], options: OutputOptions, *, share: str
    ) -> list[bytes]:
        """Predict the rows at ``indices``; return each answer as a JSON object, in that order.

        Args:
            rows: what :meth:`encode` returned.
            indices: the rows wanted, at least one.
            options: what each answer holds.
            share: whose queue it is; shares take turns.

        Raises:
            ConcurrencyExceeded: this share has too many rows waiting.
            Overloaded: the queue is full or closed.
            ModelUnavailable: the model failed on these rows.
        """
        ...


class ModelCatalog(Protocol):
    """All the models there are."""

    def resolve(self, reference: ModelRef, caller_label: str = "") -> ServedModel:
        """Return the version that a reference names; of an alias with weights, the one on this caller's side.

        Raises:
            ModelNotFound: no such model, version or alias.
            ModelUnavailable: it exists and could not be loaded.
        """
        ...

    def list(self) -> tuple[ModelSummary, ...]:
        """Return every model, by name."""
        ...
