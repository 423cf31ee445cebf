"""Models, as callers may look them up."""

from backend.domain.errors import ModelNotFound
from backend.domain.models import ModelInfo, ModelSummary
from backend.services.ports import ModelCatalog


def find_model(catalog: ModelCatalog, name: str) -> ModelSummary:
    """Return a model by its name.

    Raises:
        ModelNotFound: there is none.
    """
    for summary in catalog.list():
        if summary.name == name:
            return summary
    raise ModelNotFound


def find_version(catalog: ModelCatalog, name: str, version: str) -> ModelInfo:
    """Return one version of a model.

    Raises:
        ModelNotFound: no such model, or no such version of it.
    """
    for info in find_model(catalog, name).versions:
        if info.version == version:
            return info
    raise ModelNotFound
