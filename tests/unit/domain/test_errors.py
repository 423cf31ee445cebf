"""Every refusal has a code of its own that programs can rely on, and a sentence for a person."""

import re
from collections import Counter
from collections.abc import Iterator

import pytest

from backend.domain import errors
from backend.domain.errors import FieldError, ForecourtError, OAuthError

SPOKEN_OF_IN_THE_CONTRACT = {
    "invalid-credentials", "key-expired", "key-revoked", "insufficient-scope", "model-not-allowed",
    "ip-not-allowed", "tenant-suspended", "model-not-found", "payload-too-large", "schema-mismatch",
    "rate-limited", "quota-exceeded", "concurrency-exceeded", "overloaded", "enforcement-unavailable",
    "metering-unavailable", "model-unavailable", "deadline-exceeded", "idempotency-key-reused",
    "idempotency-in-progress", "scope-exceeds-grantor", "key-limit-reached", "weak-password",
}  # fmt: skip


def family(parent: type[ForecourtError]) -> Iterator[type[ForecourtError]]:
    """Walk the tree of the domain's own errors, from a parent down."""
    yield parent
    for child in parent.__subclasses__():
        if child.__module__.startswith(errors.__name__):
            yield from family(child)


ERRORS = list(family(ForecourtError))
each_error = pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)


def a(error: type[ForecourtError], detail: str | None = None) -> ForecourtError:
    """Make one, with the OAuth vocabulary's word where one is asked for."""
    if issubclass(error, OAuthError):
        return error("invalid_grant", detail or "")
    return error(detail)


def test_the_tree_is_not_empty() -> None:
    assert len(ERRORS) > 30


def test_no_two_errors_share_a_code() -> None:
    shared = {code for code, count in Counter(error.code for error in ERRORS).items() if count > 1}
    # One word, two statuses: said of the caller's own key (401), and of the key that is to be changed (409).
    assert shared == {"key-expired", "key-revoked"}


@each_error
def test_every_code_is_kebab_case(error: type[ForecourtError]) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", error.code)


@each_error
def test_every_error_states_its_own_code_and_title(error: type[ForecourtError]) -> None:
    assert "code" in vars(error)
    assert vars(error).get("title", "").strip()


@each_error
def test_every_error_says_something_to_a_person_unasked(error: type[ForecourtError]) -> None:
    assert a(error).detail == (error.default_detail or error.title)


@each_error
def test_a_given_detail_is_what_is_said(error: type[ForecourtError]) -> None:
    made = a(error, "Exactly this.")
    assert made.detail == str(made) == "Exactly this."


def test_the_codes_of_the_contract_exist() -> None:
    assert {error.code for error in ERRORS} >= SPOKEN_OF_IN_THE_CONTRACT


def test_an_error_carries_where_it_is_wrong_and_when_to_come_back() -> None:
    place = FieldError("/inputs/0/sepal_length", "must be a number")
    made = ForecourtError(errors=(place,), retry_after_s=3)
    assert made.errors == (place,)
    assert made.retry_after_s == 3


def test_an_oauth_error_speaks_the_vocabulary_of_its_specification() -> None:
    made = OAuthError("invalid_grant", "The refresh token is not valid.", retry_after_s=2)
    assert made.oauth_code == "invalid_grant"
    assert made.detail == "The refresh token is not valid."
    assert made.retry_after_s == 2
