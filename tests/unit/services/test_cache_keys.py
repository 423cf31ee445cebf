"""What the response cache is asked by."""

import dataclasses
from typing import Any

import pytest

from backend.domain.api_keys import Environment
from backend.domain.ids import TenantId
from backend.domain.models import OutputOptions
from backend.services.cache_keys import cache_key, cache_key_prefix
from tests.unit.domain.test_callers import IRIS_2

ROW = b"\x40\x14\x66\x66"
ASKED: dict[str, Any] = {
    "tenant_id": TenantId("ten_a"),
    "environment": Environment.LIVE,
    "model": IRIS_2,
    "options": OutputOptions(probabilities=True),
}


def key(row: bytes = ROW, **changes: Any) -> bytes:
    return cache_key(cache_key_prefix(**ASKED | changes), row)


@pytest.mark.parametrize(
    "changes",
    [
        {"tenant_id": TenantId("ten_b")},
        {"environment": Environment.TEST},
        {"model": dataclasses.replace(IRIS_2, version="3")},
        {"model": dataclasses.replace(IRIS_2, name="wine")},
        # A digest covers the model's bytes and its schema.
        {"model": dataclasses.replace(IRIS_2, digest="sha256:other")},
        {"options": OutputOptions(probabilities=False)},
        {"row": ROW + b"\x00"},
        # The same bytes, divided elsewhere.
        {"tenant_id": TenantId("ten_al"), "environment": "ive"},
    ],
    ids=["tenant", "environment", "version", "name", "digest", "outputs", "row", "boundary"],
)
def test_c1_another_question_is_another_key(changes: dict[str, Any]) -> None:
    assert key(**changes) != key()


def test_c3_a_key_is_a_digest_that_says_nothing_about_the_row() -> None:
    assert key() == key()
    assert {len(key()), len(key(ROW * 1000))} == {20}
    assert ROW not in key()
