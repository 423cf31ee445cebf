"""What the response cache leaves in Redis, and what it tells."""

import ast
from pathlib import Path
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

import backend
from tests.api.conftest import World

pytestmark = pytest.mark.anyio

TELLING = 5.140625
ROW = [TELLING, 3.5, 1.4, 0.2]
NO_PLAIN_FORM = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}


@pytest.fixture
def server(server_world: World) -> World:
    server_world.move()
    return server_world


async def test_c3_no_row_stands_in_a_key_and_no_key_in_an_answer(server: World) -> None:
    tenant = await server.tenant()
    answers = [await server.predict(tenant.live, [ROW]) for _ in range(2)]
    await server.resources.predictions.settled()
    async with Redis.from_url(server.redis_url or "") as client:
        found = [key async for key in client.scan_iter(match=f"fc:{{{tenant.id}}}:*")]
    prefix = f"fc:{{{tenant.id}}}:row:".encode()
    digests = [key.removeprefix(prefix) for key in found if key.startswith(prefix)]
    assert [len(digest) for digest in digests] == [20]
    packed = orjson.dumps(TELLING)
    assert not [key for key in found if packed in key]
    for answer in answers:
        told = answer.content + b"".join(name + value for name, value in answer.headers.raw)
        for secret in (digests[0], digests[0].hex().encode(), prefix):
            assert secret not in told


async def test_c4_what_is_kept_of_an_answer_is_json(server: World) -> None:
    tenant = await server.tenant()
    answer = await server.predict(tenant.live, [ROW], headers={"Idempotency-Key": "once"})
    await server.resources.predictions.settled()
    async with Redis.from_url(server.redis_url or "") as client:
        rows = [await client.get(key) or b"" async for key in client.scan_iter(match=f"fc:{{{tenant.id}}}:row:*")]
        connected: Any = client
        [slot] = [key async for key in client.scan_iter(match=f"fc:{{{tenant.id}}}:idem:*")]
        [headers, body] = await connected.hmget(slot, ["h", "b"])
    assert [orjson.loads(row) for row in rows] == answer.json()["predictions"]
    assert body == answer.content
    assert isinstance(orjson.loads(headers), list)


@pytest.mark.parametrize("floor", ["adapters", "api", "services"])
def test_c4_nothing_that_runs_code_when_it_is_read_is_imported(floor: str) -> None:
    root = Path(backend.__file__).parent / floor
    imported = {
        name.split(".")[0]
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert "typing" in imported, "the files were read"
    assert not imported & NO_PLAIN_FORM
