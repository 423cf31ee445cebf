"""Models, as callers may look them up: those that are on their allow-list, where they have one."""

from backend.domain.callers import Caller, PlatformCaller
from backend.domain.errors import ModelNotAllowed, ModelNotFound
from backend.domain.models import ModelInfo, ModelSummary
from backend.services.ports import ModelCatalog


def list_allowed(catalog: ModelCatalog, caller: Caller | PlatformCaller) -> list[ModelSummary]:
    """Return every model that the caller may use, by name."""
    found = [summary.only(caller.models) for summary in catalog.list()]
    return [summary for summary in found if summary is not None]


def find_model(catalog: ModelCatalog, caller: Caller | PlatformCaller, name: str) -> ModelSummary:
    """Return a model by its name, with the versions that the caller may use.

    Raises:
        ModelNotFound: there is none.
        ModelNotAllowed: nothing of it is on the caller's allow-list.
    """
    for summary in catalog.list():
        if summary.name == name:
            allowed = summary.only(caller.models)
            if allowed is None:
                raise ModelNotAllowed
            return allowed
    raise ModelNotFound


def find_version(catalog: ModelCatalog, caller: Caller | PlatformCaller, name: str, version: str) -> ModelInfo:
    """Return one version of a model.

    Raises:
        ModelNotFound: no such model, or no such version of it.
        ModelNotAllowed: it is not on the caller's allow-list.
    """
    for info in find_model(catalog, caller, name).versions:
        if info.version == version:
            return info
    if any(each.name == name and version in each.numbers for each in catalog.list()) and caller.models is not None:
        raise ModelNotAllowed
    raise ModelNotFound
