"""K10: a new pepper re-issues no key. The same database, first under one pepper, then under two."""

from pathlib import Path

import pytest

from tests.api.conftest import SECRETS, Key, embedded_settings, running
from tests.api.test_predictions import problem

pytestmark = pytest.mark.anyio

OLD = SECRETS["key_peppers"]
BOTH = f"{OLD},2:tests-1357924680-qwertzuiopasdfghjklyx"
NEW = BOTH.partition(",")[2]


async def test_k10_keys_of_the_old_pepper_go_on_and_new_secrets_take_the_new_one(tmp_path: Path) -> None:
    async with running(embedded_settings(tmp_path), "one") as world:
        tenant = await world.tenant()
        assert (await world.predict(tenant.live)).status_code == 200
    async with running(embedded_settings(tmp_path, key_peppers=BOTH), "two") as world:
        assert (await world.predict(tenant.live)).status_code == 200
        owner = await world.log_in(tenant.owner_email)
        fresh = await world.key(tenant)
        answer = await world.client.post(
            f"/v1/api-keys/{tenant.live.id}/rotate", json={"overlap_seconds": 600}, headers=owner
        )
        rotated = Key(id=tenant.live.id, secret=answer.json()["secret"])
        for key in (fresh, rotated, tenant.live, tenant.test):
            assert (await world.predict(key)).status_code == 200
        assert "pepper" not in answer.text
    async with running(embedded_settings(tmp_path, key_peppers=NEW), "three") as world:
        for key in (fresh, rotated):
            assert (await world.predict(key)).status_code == 200
        for key in (tenant.live, tenant.test):
            assert problem(await world.predict(key)) == (401, "invalid-credentials"), "its pepper was taken away"
