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
# What such passwords are built from, with a number or a year behind: `Password1234567`, `Qwerty-Welcome-2026`.
_ROOTS = (
    *("password", "passwort", "passphrase", "pass", "secret", "changeme", "letmein", "login", "logon", "default"),
    *("welcome", "hello", "admin", "administrator", "root", "guest", "user", "test", "testing", "trustno"),
    *("iloveyou", "princess", "sunshine", "dragon", "monkey", "football", "baseball", "superman", "batman", "master"),
    *("qwertyuiop", "qwerty", "qwertz", "azerty", "asdfghjkl", "asdfgh", "asdf", "zxcvbnm", "zxcvbn", "zxcv"),
    *("1q2w3e4r5t", "1q2w3e4r", "q1w2e3r4", "1qaz2wsx", "qazwsx", "poiuyt"),
)
_LONGEST_FIRST = tuple(sorted(_ROOTS, key=len, reverse=True))
_AS_LETTERS = str.maketrans("013457@$!", "oieastasi")
_YEAR = re.compile(r"(?:19|20)\d\d")
_FEWEST_LEFT = 5
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
    if folded in _COMMON or len(set(folded)) < 5 or _is_repetition(folded) or _is_derived(folded):  # noqa: PLR2004
        return "is among the passwords that are guessed first"
    rest = folded
    for word in (*_CONTEXT, *(word for entry in context for word in re.split(r"[\W_]+", entry.casefold()))):
        rest = rest.replace(word, "") if len(word) > 3 else rest  # noqa: PLR2004
    # A password that is little more than the account's own words has few guesses in it.
    if len(rest) < len(folded) and sum(character.isalpha() for character in rest) < 6:  # noqa: PLR2004
        return "is built from the account's or the product's own name"
    return None


def _is_derived(text: str) -> bool:
    """Whether next to nothing is left without first guesses, runs such as 1234 or aaa, and years."""
    plain = text.translate(_AS_LETTERS)
    for root in _LONGEST_FIRST:
        while (at := max(text.find(root), plain.find(root))) >= 0:
            text, plain = (each[:at] + each[at + len(root) :] for each in (text, plain))
    return len(_without_runs(_YEAR.sub("", text))) < _FEWEST_LEFT


def _without_runs(text: str) -> str:
    """Leave out what goes on in steps of 1, 0 or -1 for three characters or more."""
    kept, start = "", 0
    while start < len(text):
        end = start + 1
        step = ord(text[end]) - ord(text[start]) if end < len(text) else 2
        while abs(step) <= 1 and end < len(text) and ord(text[end]) - ord(text[end - 1]) == step:
            end += 1
        if end - start < 3:  # noqa: PLR2004
            end = start + 1
            kept += text[start]
        start = end
    return kept


def _is_repetition(text: str) -> bool:
    """Whether a text is one short piece again and again: such a text occurs inside itself doubled."""
    period = (text + text).find(text, 1)
    return period < len(text) and period <= 8  # noqa: PLR2004
