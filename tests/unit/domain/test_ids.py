"""Identifiers say their kind, sort by the time they were made, and are never given twice."""

import re
import subprocess
import sys
import time

from hypothesis import given
from hypothesis import strategies as st

from backend.domain.ids import new_id

CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
LAST_ULID_MS = 2**48 - 1


def milliseconds_in(identifier: str) -> int:
    """Read the time out of an identifier, as the ULID specification says."""
    value = 0
    for character in identifier.partition("_")[2][:10]:
        value = value * 32 + CROCKFORD.index(character)
    return value


def test_an_id_is_its_prefix_and_twenty_six_characters_of_crockfords_alphabet() -> None:
    assert re.fullmatch(rf"ten_[{CROCKFORD}]{{26}}", new_id("ten"))


def test_the_time_is_spelt_as_in_the_ulid_specification() -> None:
    assert new_id("evt", at_s=1469918176.385).startswith("evt_01ARYZ6S41")


@given(st.integers(0, LAST_ULID_MS // 1000))
def test_the_time_can_be_read_back(second: int) -> None:
    assert milliseconds_in(new_id("evt", at_s=second)) == second * 1000


def test_without_a_time_it_is_now() -> None:
    before_ms = int(time.time() * 1000)
    made_ms = milliseconds_in(new_id("evt"))
    assert before_ms <= made_ms <= int(time.time() * 1000)


@given(st.tuples(st.integers(0, LAST_ULID_MS // 1000), st.integers(0, LAST_ULID_MS // 1000)))
def test_ids_sort_by_the_time_they_were_made(seconds: tuple[int, int]) -> None:
    earlier, later = min(seconds), max(seconds)
    if earlier != later:
        assert new_id("evt", at_s=earlier) < new_id("evt", at_s=later)


def test_ids_of_the_same_instant_differ() -> None:
    made = {new_id("evt", at_s=1_700_000_000) for _ in range(10_000)}
    assert len(made) == 10_000


def test_every_random_bit_moves() -> None:
    randoms = [new_id("evt", at_s=0)[-16:] for _ in range(2_000)]
    assert all({text[place] for text in randoms} == set(CROCKFORD) for place in range(16))


FORKS = """
import os
from backend.domain.ids import new_id
new_id("evt")
child = os.fork()
os.write(1, new_id("evt", at_s=0).encode() + bytes([10]))
if child:
    os.waitpid(child, 0)
"""


def test_a_forked_process_does_not_repeat_its_parent() -> None:
    ended = subprocess.run((sys.executable, "-c", FORKS), capture_output=True, text=True, check=True)
    first, second = ended.stdout.split()
    assert first != second
