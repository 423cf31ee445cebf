"""Which passwords will do: long enough and not among the first guesses (NIST SP 800-63B-4). No composition rules."""

import re
import unicodedata

from backend.domain.errors import FieldError, WeakPassword

MIN_CHARS = 15
MAX_CHARS = 128

# What attackers try first among passwords long enough to pass; shorter ones are refused by their length.
_COMMON = frozenset(
    {
        "passwordpassword",
        "password12345678",
        "password123456789",
        "123456789012345",
        "1234567890123456",
        "12345678901234567890",
        "qwertyuiopasdfgh",
        "qwertyuiopasdfghjkl",
        "qwertyuiopasdfghjklzxcvbnm",
        "1qaz2wsx3edc4rfv",
        "1qaz2wsx3edc4rfv5tgb",
        "iloveyouiloveyou",
        "letmeinletmeinletmein",
        "administrator123",
        "administratoradministrator",
        "correcthorsebatterystaple",
        "correct horse battery staple",
        "thisisapassword",
        "thisismypassword",
        "changemechangeme",
        "trustno1trustno1",
        "welcomewelcome123",
        "abcdefghijklmnop",
        "abcdefghijklmnopqrstuvwxyz",
    }
)
_CONTEXT = ("forecourt",)


def require_strong(password: str, *, context: tuple[str, ...] = (), pointer: str = "/password") -> None:
    """Refuse a weak password.

    Args:
        password: as typed.
        context: words that belong to the account, such as its address.
        pointer: where the password stands in the request.

    Raises:
        WeakPassword: saying which rule it breaks.
    """
    text = unicodedata.normalize("NFKC", password)
    problem = _problem(text, context)
    if problem:
        raise WeakPassword(problem, errors=(FieldError(pointer, problem),))


def _problem(text: str, context: tuple[str, ...]) -> str | None:
    if len(text) < MIN_CHARS:
        return f"must have at least {MIN_CHARS} characters"
    if len(text) > MAX_CHARS:
        return f"must have at most {MAX_CHARS} characters"
    folded = text.casefold()
    if folded in _COMMON or len(set(folded)) < 5 or _is_repetition(folded):  # noqa: PLR2004
        return "is among the passwords that are guessed first"
    rest = folded
    for word in (*_CONTEXT, *(word for entry in context for word in re.split(r"[\W_]+", entry.casefold()))):
        rest = rest.replace(word, "") if len(word) > 3 else rest  # noqa: PLR2004
    # A password that is little more than the account's own words has few guesses in it.
    if len(rest) < len(folded) and sum(character.isalpha() for character in rest) < 6:  # noqa: PLR2004
        return "is built from the account's or the product's own name"
    return None


def _is_repetition(text: str) -> bool:
    """Whether a text is one short piece again and again: such a text occurs inside itself doubled."""
    period = (text + text).find(text, 1)
    return period < len(text) and period <= 8  # noqa: PLR2004
