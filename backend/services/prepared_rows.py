"""A question's rows as its model takes them, and their keys in the response cache."""

from typing import NamedTuple

from backend.domain.api_keys import Environment
from backend.domain.callers import PredictCaller
from backend.domain.ids import TenantId
from backend.domain.models import ModelInfo
from backend.domain.predictions import PredictCommand
from backend.services.cache_keys import cache_key, cache_key_prefix
from backend.services.ports import EncodedRows, ServedModel


class _Prepared(NamedTuple):
    """What was made of a repeated question: for one loaded version, and for one tenant's keys of one kind."""

    model: ModelInfo
    tenant_id: TenantId
    environment: Environment
    rows: EncodedRows
    cache_keys: tuple[bytes, ...]

    def is_for(self, caller: PredictCaller, model: ModelInfo) -> bool:
        """Whether the same would be made now. A version that is loaded anew is told about by another object."""
        return self.model is model and self.environment is caller.environment and self.tenant_id == caller.tenant_id


def prepare(
    caller: PredictCaller, command: PredictCommand, model: ServedModel
) -> tuple[EncodedRows, tuple[bytes, ...]]:
    """Return the rows, and a key for each; no keys where the caller wants nothing of the cache.

    Raises:
        SchemaMismatch: the rows do not fit the model.
    """
    question = command.question
    before: _Prepared | None = question.prepared
    if before is not None and before.is_for(caller, model.info):
        return before.rows, before.cache_keys
    rows = model.encode(question.inputs)
    if not (command.reads_cache or command.fills_cache):
        return rows, ()
    prefix = cache_key_prefix(caller.tenant_id, caller.environment, model.info, question.options)
    cache_keys = tuple([cache_key(prefix, rows.canonical(index)) for index in range(rows.count)])
    if question.is_repeated:
        question.prepared = _Prepared(model.info, caller.tenant_id, caller.environment, rows, cache_keys)
    return rows, cache_keys
