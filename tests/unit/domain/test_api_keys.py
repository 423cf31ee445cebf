"""A key is written exactly so, is drawn at random, and a mistyped one is refused without asking anyone."""

import re
import string
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.api_keys import BASE62, Environment, PresentedKey, mint_key, parse_key, write_key

ANY_CHARACTER = string.printable + "é٣"
KEYS = 20_000
LIVE_KEY = write_key(Environment.LIVE, "AbCdEf012345", "ZyXwVuTsRqPoNmLkJiHgFeDcBa987654")
TEST_KEY = write_key(Environment.TEST, "000000000000", "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz")


def base62(length: int) -> st.SearchStrategy[str]:
    """Draw base62 text of one length."""
    return st.text(BASE62, min_size=length, max_size=length)


@pytest.fixture(scope="module")
def minted() -> list[PresentedKey]:
    return [mint_key(Environment.LIVE)[1] for _ in range(KEYS)]


# The written form


def test_base62_is_the_digits_and_the_letters_of_ascii() -> None:
    assert sorted(BASE62) == sorted(string.digits + string.ascii_letters)


@pytest.mark.parametrize("environment", list(Environment))
def test_a_minted_key_has_the_form_of_the_contract(environment: Environment) -> None:
    written, _ = mint_key(environment)
    assert re.fullmatch(rf"fc_{environment}_[0-9A-Za-z]{{12}}_[0-9A-Za-z]{{32}}[0-9A-Za-z]{{6}}", written)


@pytest.mark.parametrize("environment", list(Environment))
def test_a_minted_key_parses_into_its_own_parts(environment: Environment) -> None:
    written, presented = mint_key(environment)
    assert parse_key(written) == presented
    assert presented.environment is environment


def test_the_written_form_never_changes() -> None:
    assert LIVE_KEY == "fc_live_AbCdEf012345_ZyXwVuTsRqPoNmLkJiHgFeDcBa9876542qbqqF"
    assert TEST_KEY == "fc_test_000000000000_zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz0NYNkZ"


@given(st.sampled_from(Environment), base62(12), base62(32))
def test_the_checksum_is_the_crc_32_of_everything_before_it(
    environment: Environment, lookup_id: str, secret: str
) -> None:
    written = write_key(environment, lookup_id, secret)
    body, checksum = written[:-6], written[-6:]
    value = sum(BASE62.index(digit) * 62**power for digit, power in zip(checksum, (5, 4, 3, 2, 1, 0), strict=True))
    assert body == f"fc_{environment.value}_{lookup_id}_{secret}"
    assert value == zlib.crc32(body.encode())


@given(st.sampled_from(Environment), base62(12), base62(32))
def test_every_written_key_can_be_taken_apart(environment: Environment, lookup_id: str, secret: str) -> None:
    written = write_key(environment, lookup_id, secret)
    assert parse_key(written) == PresentedKey(environment, lookup_id, secret)


# K1: keys are random; of a million, in tests/integration/test_many_keys.py


def test_every_place_of_id_and_secret_takes_every_character(minted: list[PresentedKey]) -> None:
    for column in zip(*(key.lookup_id + key.secret for key in minted), strict=True):
        assert set(column) == set(BASE62)


# What is refused


@pytest.mark.parametrize("written", [LIVE_KEY, TEST_KEY])
def test_every_change_of_one_character_is_refused(written: str) -> None:
    assert parse_key(written) is not None
    accepted = [
        (place, character)
        for place, original in enumerate(written)
        for character in ANY_CHARACTER
        if character != original and parse_key(written[:place] + character + written[place + 1 :]) is not None
    ]
    assert accepted == []


@pytest.mark.parametrize("written", [LIVE_KEY, TEST_KEY])
def test_every_lost_or_doubled_character_is_refused(written: str) -> None:
    for place in range(len(written)):
        assert parse_key(written[:place] + written[place + 1 :]) is None
        assert parse_key(written[:place] + written[place] + written[place:]) is None


def test_every_swap_of_two_neighbours_is_refused() -> None:
    for place in range(len(LIVE_KEY) - 1):
        left, right = LIVE_KEY[place], LIVE_KEY[place + 1]
        assert left == right or parse_key(LIVE_KEY[:place] + right + left + LIVE_KEY[place + 2 :]) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "fc_live_",
        LIVE_KEY + "\n",
        " " + LIVE_KEY,
        "Bearer " + LIVE_KEY,
        LIVE_KEY.upper(),
        LIVE_KEY * 2,
        LIVE_KEY.replace("live", "prod"),
        LIVE_KEY.replace("fc_", "sk_"),
        LIVE_KEY.replace("live", "test"),
        LIVE_KEY.replace("_", "-"),
        pytest.param("x" * 100_000, id="long"),
    ],
)
def test_what_is_not_a_key_is_refused(text: str) -> None:
    assert parse_key(text) is None


@given(st.text(ANY_CHARACTER))
def test_no_text_makes_the_parser_fail(text: str) -> None:
    assert parse_key(text) is None
