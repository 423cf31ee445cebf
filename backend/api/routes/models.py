"""Models over HTTP."""

from fastapi import APIRouter

from backend.api.deps import CatalogDep, ModelsReader
from backend.api.refusals import refusals
from backend.api.schemas.common import Page
from backend.api.schemas.models import ModelOut, ModelVersionOut
from backend.domain import errors
from backend.services.models import find_model, find_version, list_allowed

router = APIRouter(prefix="/models", tags=["models"])
_REFUSALS = refusals(errors.ModelNotFound, errors.ModelNotAllowed)


@router.get("", summary="List models", responses=refusals())
async def list_models(caller: ModelsReader, catalog: CatalogDep) -> Page[ModelOut]:
    """Return every model that the caller may use; there are few, so all of them stand on one page."""
    return Page(data=[ModelOut.of(summary) for summary in list_allowed(catalog, caller)])


@router.get("/{model}", summary="Read a model", responses=_REFUSALS)
async def read_model(model: str, caller: ModelsReader, catalog: CatalogDep) -> ModelOut:
    """Return a model with its versions and aliases."""
    return ModelOut.of(find_model(catalog, caller, model))


@router.get(
    "/{model}/versions/{version}",
    summary="Read a version",
    responses=_REFUSALS,
)
async def read_version(model: str, version: str, caller: ModelsReader, catalog: CatalogDep) -> ModelVersionOut:
    """Return one version of a model."""
    return ModelVersionOut.of(find_version(catalog, caller, model, version))
