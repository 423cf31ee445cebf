"""The shared model service, as predictions see it."""

from collections.abc import Mapping, Sequence
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

    def run_at_once(self, rows: EncodedRows, indices: Sequence[int], options: OutputOptions) -> list[bytes] | None:
        """Predict as :meth:`run` does, if that takes less time than waiting for a turn; ``None`` if it does not.

        Raises:
            Overloaded, ModelUnavailable: as :meth:`run`.
        """
        ...

    async def run(
        self,
        rows: EncodedRows,
        indices: Sequence[int],
        options: OutputOptions,
        *,
        share: str,
        deadline_s: float | None = None,
    ) -> list[bytes]:
        """Predict the rows at ``indices``; return each answer as a JSON object, in that order.

        Args:
            rows: what :meth:`encode` returned.
            indices: the rows wanted, at least one.
            options: what each answer holds.
            share: whose queue it is; shares take turns.
            deadline_s: how long the caller will wait; with a queue that takes longer, it need not begin.

        Raises:
            ConcurrencyExceeded: this share has too many rows waiting.
            Overloaded: the queue is full or closed, or the wait would pass the deadline.
            ModelUnavailable: the model failed on these rows.
        """
        ...

    def count_cached(self, rows: int) -> None:
        """Take note of rows of its own that the response cache answered."""
        ...


class ModelRollouts(Protocol):
    """Which versions are served, and what the aliases mean. A change reaches every replica within seconds.

    Every method raises ``ModelNotFound`` where there is no such model, and ``ModelUnavailable`` where what is kept of
    it is damaged or cannot be written.
    """

    async def aliases(self, model: str) -> dict[str, dict[str, int]]:
        """Return a model's aliases: of each, the versions and their weights."""
        ...

    async def unloaded(self, model: str) -> frozenset[str]:
        """Return the versions that are kept from being served."""
        ...

    async def set_alias(self, model: str, alias: str, targets: Mapping[str, int]) -> None:
        """Point an alias at versions, each with its weight; the other aliases stay.

        Raises:
            Invalid: no such version, one that is unloaded, or no way to name an alias.
        """
        ...

    async def remove_alias(self, model: str, alias: str) -> None:
        """Take an alias away; one that is not there is no mistake."""
        ...

    async def load(self, model: str, version: str) -> None:
        """Let a version be served again.

        Raises:
            ModelNotFound: there is none.
        """
        ...

    async def unload(self, model: str, version: str) -> None:
        """Keep a version from being served, until it is loaded again.

        Raises:
            ModelNotFound: there is none.
            VersionInUse: an alias points at it.
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
