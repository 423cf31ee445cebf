"""K1 by the million: too many keys for a unit test."""

import gc
from collections import Counter
from collections.abc import Iterator

import pytest

from backend.domain.api_keys import BASE62, Environment, mint_key

AT_A_TIME, MANY_KEYS = 20_000, 1_000_000


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Texts and numbers hold no cycles: the collector would look through two million of them for nothing."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
def test_k1_of_a_million_keys_none_is_minted_twice_and_the_alphabet_is_used_uniformly() -> None:
    """The very function, so many times; in portions, so that a million keys do not have to fit into memory at once."""
    lookup_ids: set[str] = set()
    secrets: set[int] = set()
    counts: Counter[str] = Counter()
    for _ in range(MANY_KEYS // AT_A_TIME):
        keys = [mint_key(Environment.LIVE)[1] for _ in range(AT_A_TIME)]
        lookup_ids.update(key.lookup_id for key in keys)
        secrets.update(hash(key.secret) for key in keys)
        text = "".join([key.lookup_id + key.secret for key in keys])
        counts.update({character: text.count(character) for character in BASE62})
    # Of a million hashes of 64 bits two are alike once in 10^7 runs.
    assert (len(lookup_ids), len(secrets)) == (MANY_KEYS, MANY_KEYS)
    assert counts.total() == MANY_KEYS * 44, "and no character but these"
    expected = MANY_KEYS * 44 / 62
    chi_square = sum((counts[character] - expected) ** 2 / expected for character in BASE62)
    # 61 degrees of freedom: chance passes 300 once in 10^32 runs; bytes modulo 62 would give some 290,000.
    assert chi_square < 300
