"""Hashing, sealing, cursors and passwords: what the store holds is worth nothing to whoever steals it."""

import base64
import re
import unicodedata
from collections.abc import Iterator

import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given
from hypothesis import strategies as st
from passlib.hash import argon2

from backend.adapters.crypto.cursors import HmacCursors
from backend.adapters.crypto.key_hashes import PepperedKeyHasher
from backend.adapters.crypto.keys import Sealer, derive_key
from backend.adapters.crypto.opaque_tokens import HmacOpaqueTokens
from backend.adapters.crypto.passwords import Argon2Passwords
from backend.domain.errors import Invalid

SECRET = "tests-0123456789-abcdefghijklmnopqrstuv"
OTHER_SECRET = "tests-9876543210-zyxwvutsrqponmlkjihgfe"
KEY_SECRET = "ZyXwVuTsRqPoNmLkJiHgFeDcBa987654"


# API key secrets


def test_a_key_secret_verifies_and_any_other_does_not() -> None:
    hasher = PepperedKeyHasher({1: SECRET})
    stored, version = hasher.hash(KEY_SECRET)
    assert hasher.verify(KEY_SECRET, stored, version)
    for wrong in ("", KEY_SECRET[:-1], KEY_SECRET + "0", KEY_SECRET.lower(), KEY_SECRET[:-1] + "5"):
        assert not hasher.verify(wrong, stored, version)
    assert not hasher.verify(KEY_SECRET, stored[:-1], version)
    assert not hasher.verify(KEY_SECRET, b"", version)


def test_a_stored_hash_is_a_keyed_one_of_256_bits_without_the_secret_in_it() -> None:
    stored, _ = PepperedKeyHasher({1: SECRET}).hash(KEY_SECRET)
    assert len(stored) == 32
    assert KEY_SECRET.encode() not in stored
    assert stored != PepperedKeyHasher({1: OTHER_SECRET}).hash(KEY_SECRET)[0], "without the pepper nobody can test"


def test_k10_a_new_pepper_is_used_for_new_keys_and_the_old_ones_stay_good() -> None:
    before = PepperedKeyHasher({1: SECRET})
    stored, version = before.hash(KEY_SECRET)
    after = PepperedKeyHasher({1: SECRET, 2: OTHER_SECRET})
    assert after.verify(KEY_SECRET, stored, version)
    renewed, newer = after.hash(KEY_SECRET)
    assert (version, newer) == (1, 2)
    assert renewed != stored
    assert after.verify(KEY_SECRET, renewed, newer)


def test_the_newest_pepper_is_the_one_with_the_highest_number_however_they_are_listed() -> None:
    for peppers in ({2: SECRET, 10: OTHER_SECRET}, {10: OTHER_SECRET, 2: SECRET}):
        assert PepperedKeyHasher(peppers).hash(KEY_SECRET)[1] == 10


def test_k10_a_pepper_that_was_taken_away_verifies_nothing() -> None:
    stored, version = PepperedKeyHasher({1: SECRET}).hash(KEY_SECRET)
    hasher = PepperedKeyHasher({2: SECRET})
    assert not hasher.verify(KEY_SECRET, stored, version)
    # Not even under the same value: the number is part of what was stored.
    assert hasher.verify(KEY_SECRET, stored, 2), "the hash itself does not hold the number, the row does"
    assert not hasher.verify(KEY_SECRET, stored, 0)


def test_without_any_pepper_there_is_no_hasher() -> None:
    with pytest.raises(ValueError, match="pepper"):
        PepperedKeyHasher({})


# Cursors


@given(purpose=st.text(max_size=50), position=st.text(max_size=50))
def test_a_cursor_gives_its_position_back(purpose: str, position: str) -> None:
    cursors = HmacCursors(SECRET)
    cursor = cursors.encode(purpose, position)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", cursor), "it stands in a URL as it is"
    assert cursors.decode(purpose, cursor) == position


@given(
    made_for=st.text("ab:\0", max_size=4),
    used_for=st.text("ab:\0", max_size=4),
    position=st.text("ab:\0", max_size=4),
)
def test_a_cursor_is_good_for_its_own_list_only(made_for: str, used_for: str, position: str) -> None:
    cursors = HmacCursors(SECRET)
    cursor = cursors.encode(made_for, position)
    if made_for == used_for:
        assert cursors.decode(used_for, cursor) == position
    else:
        with pytest.raises(Invalid):
            cursors.decode(used_for, cursor)


@given(st.text(max_size=80) | st.text("abcXYZ09-_=", max_size=80))
def test_garbage_is_no_cursor(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        HmacCursors(SECRET).decode("list", text)
    assert [error.pointer for error in refused.value.errors] == ["/query/cursor"]


def test_a_cursor_with_any_one_bit_changed_is_refused() -> None:
    cursors = HmacCursors(SECRET)
    raw = base64.urlsafe_b64decode(cursors.encode("list", "key_00000001") + "==")
    for place in range(len(raw) * 8):
        changed = bytearray(raw)
        changed[place // 8] ^= 1 << place % 8
        with pytest.raises(Invalid):
            cursors.decode("list", base64.urlsafe_b64encode(bytes(changed)).rstrip(b"=").decode())


def test_a_cursor_made_under_another_secret_is_refused() -> None:
    with pytest.raises(Invalid):
        HmacCursors(SECRET).decode("list", HmacCursors(OTHER_SECRET).encode("list", "x"))


# Refresh tokens


def test_an_opaque_token_has_256_random_bits() -> None:
    tokens = HmacOpaqueTokens(SECRET)
    minted = {tokens.mint() for _ in range(1000)}
    assert len(minted) == 1000
    assert all(re.fullmatch(r"fr_[A-Za-z0-9_-]{43}", token) for token in minted)


def test_a_successor_is_always_the_same_and_cannot_be_told_without_the_secret() -> None:
    tokens = HmacOpaqueTokens(SECRET)
    token = tokens.mint()
    successor = tokens.successor(token)
    assert successor == HmacOpaqueTokens(SECRET).successor(token)
    assert successor != HmacOpaqueTokens(OTHER_SECRET).successor(token)
    assert re.fullmatch(r"fr_[A-Za-z0-9_-]{43}", successor)
    assert len({token, successor, tokens.successor(successor)}) == 3


def test_o3_what_the_store_keeps_of_a_token_is_a_keyed_hash_and_not_its_successor() -> None:
    tokens = HmacOpaqueTokens(SECRET)
    token = tokens.mint()
    stored = tokens.hash(token)
    assert len(stored) == 32
    assert stored == HmacOpaqueTokens(SECRET).hash(token)
    assert stored != HmacOpaqueTokens(OTHER_SECRET).hash(token)
    # One key for each purpose: otherwise the stored hash would be the next token in plain sight.
    assert base64.urlsafe_b64encode(stored).rstrip(b"=").decode() not in tokens.successor(token)


# Sealing


def test_what_was_sealed_comes_back_under_its_own_name_and_secret_only() -> None:
    sealed = Sealer(SECRET, "signing-keys").seal(b"private", "kid-1")
    assert Sealer(SECRET, "signing-keys").unseal(sealed, "kid-1") == b"private"
    for sealer, name in (
        (Sealer(SECRET, "signing-keys"), "kid-2"),
        (Sealer(OTHER_SECRET, "signing-keys"), "kid-1"),
        (Sealer(SECRET, "another purpose"), "kid-1"),
    ):
        with pytest.raises(InvalidTag):
            sealer.unseal(sealed, name)


def test_what_was_sealed_and_changed_does_not_open() -> None:
    sealer = Sealer(SECRET, "signing-keys")
    sealed = sealer.seal(b"private", "kid-1")
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(InvalidTag):
            sealer.unseal(bytes(changed), "kid-1")


def test_the_same_thing_sealed_twice_looks_different() -> None:
    sealer = Sealer(SECRET, "signing-keys")
    assert len({sealer.seal(b"private", "kid-1") for _ in range(100)}) == 100


def test_every_purpose_has_a_key_of_its_own() -> None:
    keys = [derive_key(secret, purpose) for secret in (SECRET, OTHER_SECRET) for purpose in ("a", "b", "")]
    assert len(set(keys)) == 6
    assert all(len(key) == 32 for key in keys)


# Passwords


@pytest.fixture(scope="module")
def passwords() -> Iterator[Argon2Passwords]:
    hasher = Argon2Passwords()
    yield hasher
    hasher.close()


@pytest.mark.anyio
async def test_p3_hashes_are_argon2id_with_at_least_the_recommended_parameters(passwords: Argon2Passwords) -> None:
    stored = await passwords.hash("seven purple elephants dance")
    match = re.fullmatch(r"\$argon2id\$v=19\$m=(\d+),t=(\d+),p=(\d+)\$([\w+/]+)\$([\w+/]+)", stored)
    assert match, stored
    assert int(match[1]) >= 19456
    assert int(match[2]) >= 2
    assert int(match[3]) >= 1
    assert len(match[4]) * 3 // 4 >= 16, "bytes of salt"
    assert len(match[5]) * 3 // 4 >= 32, "bytes of hash"


@pytest.mark.anyio
async def test_a_password_verifies_and_a_near_miss_does_not(passwords: Argon2Passwords) -> None:
    stored = await passwords.hash("seven purple elephants dance")
    assert await passwords.verify("seven purple elephants dance", stored)
    for wrong in ("seven purple elephants dancE", "seven purple elephants danc", " seven purple elephants dance", ""):
        assert not await passwords.verify(wrong, stored)


@pytest.mark.anyio
async def test_the_same_password_hashed_twice_looks_different(passwords: Argon2Passwords) -> None:
    assert await passwords.hash("seven purple elephants") != await passwords.hash("seven purple elephants")


@pytest.mark.anyio
@pytest.mark.parametrize("length", [72, 73, 100, 128])
async def test_p1_no_character_of_a_long_password_is_cut_off(passwords: Argon2Passwords, length: int) -> None:
    stored = await passwords.hash("p" * (length - 1) + "a")
    assert await passwords.verify("p" * (length - 1) + "a", stored)
    assert not await passwords.verify("p" * (length - 1) + "b", stored)
    assert not await passwords.verify("p" * (length - 1), stored)


@pytest.mark.anyio
async def test_p1_nothing_after_a_zero_character_is_cut_off(passwords: Argon2Passwords) -> None:
    stored = await passwords.hash("seven purple\0elephants")
    assert not await passwords.verify("seven purple\0elephantS", stored)
    assert not await passwords.verify("seven purple", stored)


@pytest.mark.anyio
async def test_p1_however_the_same_characters_were_typed_it_is_the_same_password(passwords: Argon2Passwords) -> None:
    composed = "zw\u00f6lf Boxk\u00e4mpfer \ufb01nden"
    stored = await passwords.hash(composed)
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert await passwords.verify(unicodedata.normalize(form, composed), stored), form
    assert not await passwords.verify("zwolf Boxkampfer finden", stored)


@pytest.mark.anyio
async def test_p4_without_an_account_no_password_verifies_not_even_the_dummys(passwords: Argon2Passwords) -> None:
    for password in ("", "nobody", "seven purple elephants dance"):
        assert await passwords.verify(password, None) is False


@pytest.mark.anyio
async def test_p4_without_an_account_the_same_hash_is_computed() -> None:
    """The dummy has the parameters of all others; that each login computes one hash is tested where a login is."""
    strong = Argon2Passwords(memory_kib=32768, rounds=3)
    try:
        stored = await strong.hash("seven purple elephants dance")
        parameters = re.search(r"m=\d+,t=\d+,p=\d+", stored)
        assert parameters
        assert parameters[0] == "m=32768,t=3,p=1"
        assert parameters[0] in strong._nobody
    finally:
        strong.close()


@pytest.mark.parametrize(
    ("parameters", "outdated"),
    [
        ({"memory_cost": 19456, "rounds": 2}, False),
        ({"memory_cost": 19455, "rounds": 2}, True),
        ({"memory_cost": 19456, "rounds": 1}, True),
        ({"memory_cost": 8192, "rounds": 4}, True),
    ],
)
def test_p3_a_hash_with_weaker_parameters_is_outdated(
    passwords: Argon2Passwords, parameters: dict[str, int], outdated: bool
) -> None:
    stored = argon2.using(type="ID", parallelism=1, **parameters).hash("seven purple elephants dance")
    assert passwords.is_outdated(stored) is outdated


def test_p3_another_kind_of_argon2_is_outdated(passwords: Argon2Passwords) -> None:
    stored = argon2.using(type="I", parallelism=1, memory_cost=19456, rounds=2).hash("seven purple elephants")
    assert passwords.is_outdated(stored)
