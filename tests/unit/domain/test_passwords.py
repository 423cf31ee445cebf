"""Which passwords will do: long ones that nobody guesses first, whatever characters they are made of."""

import string

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from backend.domain.errors import WeakPassword
from backend.domain.passwords import MAX_CHARS, MIN_CHARS, require_strong

OWNER = ("jane.miller@acme-corp.example",)


def problem(password: str, context: tuple[str, ...] = ()) -> str | None:
    """Return what is wrong with a password; check how the refusal looks."""
    refused: WeakPassword | None = None
    try:
        require_strong(password, context=context)
    except WeakPassword as error:
        refused = error
    if refused is None:
        return None
    assert [(each.pointer, each.detail) for each in refused.errors] == [("/password", refused.detail)]
    return refused.detail


def test_a_refusal_does_not_repeat_the_password() -> None:
    for password in ("giraffe", "passwordpassword", "giraffe " * 20, "xyzxyzxyzxyzxyz"):
        assert password.strip() not in str(problem(password))


# P1: length, and nothing but length


def test_p1_the_bounds_are_those_of_the_standard() -> None:
    assert MIN_CHARS >= 15
    assert MAX_CHARS >= 128


@pytest.mark.parametrize(
    ("length", "accepted"), [(1, False), (14, False), (15, True), (64, True), (128, True), (129, False)]
)
def test_p1_from_15_to_128_characters_will_do(length: int, accepted: bool) -> None:
    password = ("correct giraffe " * 9)[:length]
    assert (problem(password) is None) is accepted


def test_p1_the_refusal_says_how_many_characters_are_needed() -> None:
    assert problem("short") == "must have at least 15 characters"
    assert problem("long " * 30) == "must have at most 128 characters"


def test_p1_characters_are_counted_as_they_are_hashed() -> None:
    ligature = "\ufb03"  # one character, three after NFKC
    assert problem("giraffe " + ligature * 2) is not None, "8 + 6"
    assert problem("giraffes " + ligature * 2) is None, "9 + 6"
    combining = "u\u0308"  # two characters, one after NFKC
    assert problem("giraf " + combining * 8) is not None, "6 + 8"
    assert problem("\U0001f992" * 3 + "giraffes meet") is None, "a character is one whatever its bytes"


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=40, max_size=60))
def test_p1_any_characters_will_do(password: str) -> None:
    assume(len(set(password.casefold())) > 10)
    found = problem(password)
    assert found is None or "at most" in found, "some characters become many"


# P2: no composition rules, but a block-list


@pytest.mark.parametrize(
    "password",
    [
        "giraffes meet in paris",
        "31415926535897932384",
        "purple-elephants-dance",
        "ÄÖÜ älter öfter üblich",
        "a1!B2@c3#D4$e5%F",
    ],
)
def test_p2_no_kind_of_character_is_demanded(password: str) -> None:
    assert problem(password) is None


@pytest.mark.parametrize(
    "password",
    [
        "passwordpassword",
        "PasswordPassword",
        "correct horse battery staple",
        "CorrectHorseBatteryStaple",
        "qwertyuiopasdfgh",
        "123456789012345",
        "\uff50\uff41\uff53\uff53\uff57\uff4f\uff52\uff44" * 2,
    ],
)
def test_p2_what_is_guessed_first_is_refused_however_it_is_written(password: str) -> None:
    assert problem(password) == "is among the passwords that are guessed first"


@pytest.mark.parametrize(
    "password",
    [
        "password1234567",
        "P4ssw0rd1234567",
        "1234567password!",
        "Password-2026-!!!",
        "qwerty123456789",
        "Welcome2026admin",
        "letmein987654321",
        "Admin123Admin1234",
        "hello-test-1999-user",
    ],
)
def test_p2_a_first_guess_with_a_number_behind_is_still_one(password: str) -> None:
    assert problem(password) == "is among the passwords that are guessed first"


@pytest.mark.parametrize(
    "password", ["password of a giraffe", "my test of 1234 zebras", "dragonfly over the pond", "8402957301947password"]
)
def test_p2_a_first_guess_among_other_words_is_welcome(password: str) -> None:
    assert problem(password) is None


@pytest.mark.parametrize(
    "password",
    ["a" * 20, "abababababababab", "1234" * 5, "dragon12" * 3, "abc" * 6, "        " * 3, "aabbccddaabbccdd"],
)
def test_p2_one_short_piece_again_and_again_is_refused(password: str) -> None:
    assert problem(password) == "is among the passwords that are guessed first"


@given(st.text(string.ascii_lowercase, min_size=1, max_size=8), st.integers(2, 20))
def test_p2_every_repetition_of_up_to_eight_characters_is_refused(piece: str, times: int) -> None:
    password = piece * times
    assume(MIN_CHARS <= len(password) <= MAX_CHARS)
    assert problem(password) is not None


@pytest.mark.parametrize(
    "password",
    [
        "jane.miller.2026",
        "Jane-Miller-1985!",
        "acme-corp-jane-2026",
        "jane jane miller acme",
        "jane.miller@acme-corp.example",
        "forecourt-2026-01",
        "Forecourt!Forecourt",
        "miller123456789",
    ],
)
def test_p2_the_accounts_own_words_with_some_digits_are_refused(password: str) -> None:
    assert problem(password, OWNER) == "is built from the account's or the product's own name"


def test_p2_the_accounts_own_words_are_welcome_among_others() -> None:
    assert problem("jane likes giraffes", OWNER) is None
    assert problem("forecourt of giraffes", OWNER) is None


def test_p2_other_peoples_words_are_no_context() -> None:
    assert problem("jane.miller.2026") is None


def test_p2_short_words_of_an_address_forbid_nothing() -> None:
    assert problem("a giraffe at noon", ("a@at.io",)) is None
