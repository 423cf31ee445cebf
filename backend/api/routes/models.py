"""Models over HTTP."""

from fastapi import APIRouter

from backend.api.deps import CatalogDep, ModelsReader
from backend.api.refusals import refusals
from backend.api.schemas.common import Page
from backend.api.schemas.models import ModelOut, ModelVersionOut
from backend.domain import errors
from backend.services.models import find_model, find_version

router = APIRouter(prefix="/models", tags=["models"])


@router.get("", summary="List models", responses=refusals())
async def list_models(_caller: ModelsReader, catalog: CatalogDep) -> Page[ModelOut]:
    """Return every model there is; there are few, so all of them stand on one page."""
    return Page(data=[ModelOut.of(summary) for summary in catalog.list()])


@router.get("/{model}", summary="Read a model", responses=refusals(errors.ModelNotFound))
async def read_model(model: str, _caller: ModelsReader, catalog: CatalogDep) -> ModelOut:
    """Return a model with its versions and aliases."""
    return ModelOut.of(find_model(catalog, model))


@router.get("/{model}/versions/{version}", summary="Read a version", responses=refusals(errors.ModelNotFound))
async def read_version(model: str, version: str, _caller: ModelsReader, catalog: CatalogDep) -> ModelVersionOut:
    """Return one version of a model."""
    return ModelVersionOut.of(find_version(catalog, model, version))
