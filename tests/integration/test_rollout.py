"""Two server processes and the command line on one folder of models: what one changes, all take over while serving."""

import json
import shutil
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.integration.conftest import NewSite
from tests.integration.customers import Customer, Customers
from tests.integration.forecourt_process import forecourt

pytestmark = [pytest.mark.anyio, pytest.mark.process]

PATIENT_S = 60.0


def publish_again(models: Path, version: str) -> None:
    """Publish iris@1 under another version, all at once."""
    staging = models / "iris" / ".incoming-test"
    shutil.copytree(models / "iris" / "1", staging)
    manifest = json.loads((staging / "manifest.json").read_bytes())
    (staging / "manifest.json").write_text(json.dumps(manifest | {"version": version}))
    staging.rename(models / "iris" / version)


class Crowd:
    """Asks both replicas again and again, and keeps whatever is no answer."""

    def __init__(self, replicas: list[Customer]) -> None:
        self._replicas = replicas
        self.seen: list[set[str]] = [set() for _ in replicas]
        self.failures: list[tuple[int, Any]] = []
        self.answers = 0
        self._ends = False

    async def ask(self, place: int) -> None:
        number = 0
        while not self._ends:
            number += 1
            await anyio.sleep(0.01)
            answer = await self._replicas[place].predict([[5.0 + place, 3.0, 1.0, number / 1000]], key="test_key")
            if answer.status_code == 200:
                self.answers += 1
                self.seen[place].add(answer.json()["version"])
            elif answer.json()["code"] != "rate-limited":
                self.failures.append((answer.status_code, answer.json()))

    async def until_both_see(self, version: str) -> None:
        for seen in self.seen:
            seen.clear()
        with anyio.fail_after(PATIENT_S):
            while not all(version in seen for seen in self.seen):
                await anyio.sleep(0.02)
            for seen in self.seen:
                seen.clear()
            while not all(seen == {version} for seen in self.seen):
                await anyio.sleep(0.02)

    def end(self) -> None:
        self._ends = True


async def until_unavailable(here: Customer, there: Customer, reference: str) -> None:
    with anyio.fail_after(PATIENT_S):
        for customer in (here, there):
            while (await customer.predict(model=reference)).status_code != 503:
                await anyio.sleep(0.02)


async def test_a_rollout_reaches_every_replica_while_it_serves(
    make_site: NewSite, shared_settings: dict[str, str], models_root: Path, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    shutil.copytree(models_root, models)
    site = make_site(**shared_settings, MODELS=str(models))
    settings = {**shared_settings, "MODELS": str(models), "ENVIRONMENT": "demo"}

    def operate(*arguments: str) -> None:
        ended = forecourt("models", *arguments, settings=settings)
        assert ended.returncode == 0, ended.stderr

    one, two = site.start(), site.start()
    async with (
        Customers(one.base_url, one.credentials) as here,
        Customers(two.base_url, two.credentials) as there,
        anyio.create_task_group() as group,
    ):
        crowd = Crowd([here["acme"], there["acme"]])
        group.start_soon(crowd.ask, 0)
        group.start_soon(crowd.ask, 1)
        await crowd.until_both_see("1")
        publish_again(models, "2")
        await anyio.to_thread.run_sync(operate, "alias", "iris", "stable", "2")
        await crowd.until_both_see("2")
        await anyio.to_thread.run_sync(operate, "unload", "iris", "1")
        await until_unavailable(here["acme"], there["acme"], "iris@1")
        await anyio.to_thread.run_sync(operate, "load", "iris", "1")
        await anyio.to_thread.run_sync(operate, "alias", "iris", "stable", "1")
        await anyio.to_thread.run_sync(operate, "unload", "iris", "2")
        await crowd.until_both_see("1")
        crowd.end()
    assert crowd.failures == []
    assert crowd.answers > 20
