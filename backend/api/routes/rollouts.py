"""What the operator rolls out: versions loaded and unloaded, aliases moved. Above all tenants."""

from fastapi import APIRouter

from backend.api.deps import PlatformAdmin, RolloutServiceDep
from backend.api.refusals import refusals
from backend.api.schemas.common import Page
from backend.api.schemas.rollouts import AliasIn, AliasOut, VersionStateOut
from backend.domain import errors

router = APIRouter(prefix="/admin/models/{model}", tags=["platform"])

_NO_SUCH = (errors.ModelNotFound, errors.ModelUnavailable)


@router.get("/aliases", summary="List a model's aliases", responses=refusals(*_NO_SUCH))
async def list_aliases(model: str, _caller: PlatformAdmin, service: RolloutServiceDep) -> Page[AliasOut]:
    """Return every alias of a model with the versions and weights that it stands for."""
    found = await service.aliases(model)
    return Page(data=[AliasOut(model=model, alias=alias, targets=targets) for alias, targets in found.items()])


@router.put("/aliases/{alias}", summary="Point an alias", responses=refusals(*_NO_SUCH))
async def set_alias(
    model: str, alias: str, body: AliasIn, caller: PlatformAdmin, service: RolloutServiceDep
) -> AliasOut:
    """Point an alias at a version, or at several by weight.

    `stable` is what a bare name means. `shadow` names the version that gets the other versions' rows as well, after
    they were answered; its answers are only compared.
    """
    return AliasOut(model=model, alias=alias, targets=await service.set_alias(caller.actor, model, alias, body.weights))


@router.delete("/aliases/{alias}", status_code=204, summary="Remove an alias", responses=refusals(*_NO_SUCH))
async def remove_alias(model: str, alias: str, caller: PlatformAdmin, service: RolloutServiceDep) -> None:
    """Take an alias away; its versions stay."""
    await service.remove_alias(caller.actor, model, alias)


@router.post("/versions/{version}/load", summary="Load a version", responses=refusals(*_NO_SUCH))
async def load_version(model: str, version: str, caller: PlatformAdmin, service: RolloutServiceDep) -> VersionStateOut:
    """Let a version be served again that was unloaded; every replica loads and warms it within seconds."""
    await service.load(caller.actor, model, version)
    return VersionStateOut(model=model, version=version, loaded=True)


@router.post(
    "/versions/{version}/unload", summary="Unload a version", responses=refusals(*_NO_SUCH, errors.VersionInUse)
)
async def unload_version(
    model: str, version: str, caller: PlatformAdmin, service: RolloutServiceDep
) -> VersionStateOut:
    """Keep a version from being served, on every replica and across restarts, and free its memory."""
    await service.unload(caller.actor, model, version)
    return VersionStateOut(model=model, version=version, loaded=False)
