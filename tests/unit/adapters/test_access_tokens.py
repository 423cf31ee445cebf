"""Access tokens are verified to the letter (SECURITY.md J1-J9): what python-jose would let through is refused."""

import base64
import hmac
import json
import string
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from hypothesis import given
from hypothesis import strategies as st
from jose import jwe

from backend.adapters.crypto.access_tokens import (
    MAX_TOKEN_BYTES,
    SKEW_S,
    JoseTokenIssuer,
    SigningKey,
    generate_signing_key,
)
from backend.domain.errors import Unauthenticated
from backend.domain.ids import TenantId
from backend.domain.scopes import Scope
from tests.fakes import FakeClock

NAME = "https://api.example"
TTL_S = 900
KEY = generate_signing_key()
OTHER_KEY = generate_signing_key()
SCOPES = frozenset({Scope.PREDICT, Scope.MODELS_READ})
NOW_S = int(FakeClock().now_s())


def issuer(*keys: SigningKey, ttl_s: int = TTL_S, clock: FakeClock | None = None) -> JoseTokenIssuer:
    return JoseTokenIssuer(keys or (KEY,), issuer=NAME, audience=NAME, ttl_s=ttl_s, clock=clock or FakeClock())


def encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def private_of(key: SigningKey) -> ec.EllipticCurvePrivateKey:
    assert key.private_pem is not None
    private = load_pem_private_key(key.private_pem.encode(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    return private


def es256(message: bytes, private: ec.EllipticCurvePrivateKey) -> bytes:
    return raw_signature(private.sign(message, ec.ECDSA(hashes.SHA256())), 32)


def raw_signature(der: bytes, width: int) -> bytes:
    r, s = decode_dss_signature(der)
    return r.to_bytes(width, "big") + s.to_bytes(width, "big")


@dataclass
class Token:
    """A token as an attacker, or another version of us, might write it: signed with our key unless told otherwise."""

    header: dict[str, Any] = field(default_factory=lambda: {"alg": "ES256", "typ": "at+jwt", "kid": KEY.kid})
    claims: dict[str, Any] = field(
        default_factory=lambda: {
            "iss": NAME,
            "sub": "usr_1",
            "aud": NAME,
            "iat": NOW_S,
            "exp": NOW_S + TTL_S,
            "jti": "0123456789abcdef",
            "scope": "models:read predict",
            "tid": "ten_1",
            "sid": "ses_1",
        }
    )

    @property
    def signing_input(self) -> bytes:
        header, claims = (json.dumps(part, allow_nan=True).encode() for part in (self.header, self.claims))
        return f"{encoded(header)}.{encoded(claims)}".encode()

    def signed(self, signature: bytes | None = None) -> str:
        message = self.signing_input
        if signature is None:
            signature = es256(message, private_of(KEY))
        return f"{message.decode()}.{encoded(signature)}"


def refused(token: str, by: JoseTokenIssuer | None = None) -> bool:
    try:
        (by or issuer()).verify(token)
    except Unauthenticated:
        return True
    return False


def test_the_token_that_all_refused_ones_differ_from_is_accepted() -> None:
    claims = issuer().verify(Token().signed())
    assert (claims.subject, claims.tenant_id, claims.session_id) == ("usr_1", "ten_1", "ses_1")
    assert claims.scopes == SCOPES
    assert claims.token_id == "0123456789abcdef"
    assert claims.issued_at == datetime.fromtimestamp(NOW_S, UTC)
    assert claims.expires_at == datetime.fromtimestamp(NOW_S + TTL_S, UTC)


@pytest.mark.parametrize("tenant_id", [TenantId("ten_1"), None])
@pytest.mark.parametrize("session_id", ["ses_1", None])
def test_what_was_issued_comes_back(tenant_id: TenantId | None, session_id: str | None) -> None:
    token, lifetime_s = issuer().issue(subject="usr_1", tenant_id=tenant_id, scopes=SCOPES, session_id=session_id)
    claims = issuer().verify(token)
    assert lifetime_s == TTL_S
    assert (claims.subject, claims.tenant_id, claims.session_id) == ("usr_1", tenant_id, session_id)
    assert claims.scopes == SCOPES


def test_an_issued_token_has_the_header_and_the_claims_of_the_contract() -> None:
    token, _ = issuer().issue(subject="usr_1", tenant_id=TenantId("ten_1"), scopes=SCOPES, session_id=None)
    header, claims, _ = token.split(".")
    assert json.loads(decoded(header)) == {"alg": "ES256", "typ": "at+jwt", "kid": KEY.kid}
    content = json.loads(decoded(claims))
    assert content.keys() == {"iss", "sub", "aud", "exp", "iat", "jti", "tid", "scope"}
    assert content["scope"] == "models:read predict"


def test_no_two_tokens_have_the_same_id() -> None:
    tokens = [issuer().issue(subject="u", tenant_id=None, scopes=SCOPES, session_id=None)[0] for _ in range(50)]
    assert len({issuer().verify(token).token_id for token in tokens}) == 50


# J1: one algorithm


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE"])
@pytest.mark.parametrize("signature", [b"", b"x"])
def test_j1_alg_none_is_refused(name: str, signature: bytes) -> None:
    token = Token()
    token.header["alg"] = name
    assert refused(token.signed(signature))


@pytest.mark.parametrize("name", ["HS256", "HS384", "HS512"])
def test_j1_a_mac_made_with_the_public_key_is_refused(name: str) -> None:
    token = Token()
    token.header["alg"] = name
    for secret in (KEY.public_pem, KEY.public_pem.strip(), json.dumps(issuer().jwks()["keys"][0])):
        assert refused(token.signed(hmac.digest(secret.encode(), token.signing_input, sha256)))


@pytest.mark.parametrize(
    "name", ["ES384", "ES512", "PS256", "EdDSA", "es256", "ES256 ", "", "XX99", None, 256, ["ES256"]]
)
def test_j1_any_other_algorithm_is_refused_even_over_a_good_signature(name: object) -> None:
    token = Token()
    token.header["alg"] = name
    assert refused(token.signed())


def test_j1_another_curve_is_refused() -> None:
    private = ec.generate_private_key(ec.SECP384R1())
    for name, digest in (("ES384", hashes.SHA384()), ("ES256", hashes.SHA256())):
        token = Token()
        token.header["alg"] = name
        signature = raw_signature(private.sign(token.signing_input, ec.ECDSA(digest)), 48)
        assert refused(token.signed(signature))


def test_j1_an_rsa_signature_is_refused() -> None:
    token = Token()
    token.header["alg"] = "RS256"
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    assert refused(token.signed(private.sign(token.signing_input, PKCS1v15(), hashes.SHA256())))


# The signature


def test_j1_a_token_signed_by_another_key_under_our_kid_is_refused() -> None:
    token = Token()
    assert refused(token.signed(es256(token.signing_input, private_of(OTHER_KEY))))


def test_j1_a_signature_of_zeros_is_refused() -> None:
    for length in (0, 1, 63, 64, 65, 96):
        assert refused(Token().signed(b"\0" * length))


@pytest.mark.parametrize("part", [0, 1, 2])
def test_j1_a_token_with_any_one_bit_changed_is_refused(part: int) -> None:
    parts = Token().signed().split(".")
    raw = decoded(parts[part])
    accepted = []
    by = issuer()
    for place in range(len(raw)):
        for bit in range(8):
            changed = bytearray(raw)
            changed[place] ^= 1 << bit
            parts[part] = encoded(bytes(changed))
            if not refused(".".join(parts), by):
                accepted.append((place, bit))
    assert accepted == []


def test_j1_parts_of_two_good_tokens_make_no_good_one() -> None:
    one, other = Token(), Token()
    other.claims["sub"] = "usr_2"
    first, second = one.signed().split("."), other.signed().split(".")
    assert refused(".".join((first[0], second[1], first[2])))


# J2: required claims, with their types


@pytest.mark.parametrize("claim", ["exp", "iat", "iss", "aud", "sub", "jti", "scope"])
def test_j2_a_missing_claim_is_refused(claim: str) -> None:
    token = Token()
    del token.claims[claim]
    assert refused(token.signed())


@pytest.mark.parametrize("claim", ["exp", "iat", "nbf"])
@pytest.mark.parametrize(
    "value",
    [str(NOW_S + 60), float(NOW_S + 60), NOW_S + 0.5, True, None, [NOW_S], {}, float("nan"), float("inf"), 1e400],
)
def test_j2_a_time_that_is_no_whole_number_is_refused(claim: str, value: object) -> None:
    token = Token()
    token.claims[claim] = value
    assert refused(token.signed())


@pytest.mark.parametrize("claim", ["iss", "aud", "sub", "jti"])
@pytest.mark.parametrize("value", ["", None, 1, True, [NAME], {"a": NAME}])
def test_j2_a_name_that_is_no_text_is_refused(claim: str, value: object) -> None:
    token = Token()
    token.claims[claim] = value
    assert refused(token.signed())


@pytest.mark.parametrize("claim", ["tid", "sid"])
@pytest.mark.parametrize("value", [1, True, ["ten_1"], {}])
def test_j2_a_tenant_or_session_that_is_no_text_is_refused(claim: str, value: object) -> None:
    token = Token()
    token.claims[claim] = value
    assert refused(token.signed())


@pytest.mark.parametrize("scope", ["everything", "predict root", ["predict"], 7, None])
def test_j2_an_unknown_scope_is_refused(scope: object) -> None:
    token = Token()
    token.claims["scope"] = scope
    assert refused(token.signed())


def test_j2_claims_that_are_no_object_are_refused() -> None:
    for content in (b"[]", b'"text"', b"1", b"null", b"{", b"", b"\xff\xfe", b"[" * 2000):
        message = f"{encoded(json.dumps(Token().header).encode())}.{encoded(content)}".encode()
        token = f"{message.decode()}.{encoded(es256(message, private_of(KEY)))}"
        assert refused(token), content


# J3: audience, issuer, time


@pytest.mark.parametrize("claim", ["aud", "iss"])
@pytest.mark.parametrize("value", ["https://other.example", NAME + "/", NAME.upper(), f"{NAME} {NAME}", NAME[:-1]])
def test_j3_another_audience_or_issuer_is_refused(claim: str, value: str) -> None:
    token = Token()
    token.claims[claim] = value
    assert refused(token.signed())


@pytest.mark.parametrize("value", [[NAME], [NAME, "https://other.example"], ["https://other.example", NAME], []])
def test_j3_a_list_of_audiences_is_refused_even_with_ours_in_it(value: list[str]) -> None:
    token = Token()
    token.claims["aud"] = value
    assert refused(token.signed())


def test_j3_clocks_may_differ_by_thirty_seconds_and_no_more() -> None:
    assert SKEW_S <= 30
    clock = FakeClock()
    by = issuer(clock=clock)
    token = Token().signed()
    for offset_s, expected in (
        (-SKEW_S - 1, True),
        (-SKEW_S, False),
        (TTL_S + SKEW_S - 1, False),
        (TTL_S + SKEW_S, True),
    ):
        clock.set(datetime.fromtimestamp(NOW_S + offset_s, UTC))
        assert refused(token, by) is expected, offset_s


def test_j3_not_before_is_honoured() -> None:
    token = Token()
    token.claims["nbf"] = NOW_S + SKEW_S
    assert not refused(token.signed())
    token.claims["nbf"] = NOW_S + SKEW_S + 1
    assert refused(token.signed())


# J4: the type


@pytest.mark.parametrize(
    "typ", ["JWT", "jwt", "at+JWT", "AT+JWT", "application/at+jwt", "id+jwt", "", None, 1, ["at+jwt"]]
)
def test_j4_another_kind_of_token_is_refused(typ: object) -> None:
    token = Token()
    token.header["typ"] = typ
    assert refused(token.signed())


@pytest.mark.parametrize("name", ["typ", "alg", "kid"])
def test_j4_a_missing_header_name_is_refused(name: str) -> None:
    token = Token()
    del token.header[name]
    assert refused(token.signed())


# J5: our kid, and nothing else in the header


@pytest.mark.parametrize(
    "kid",
    ["", "0", KEY.kid.upper() + "x", "../" + KEY.kid, "' OR '1'='1", None, 7, [KEY.kid], {}],
    ids=["empty", "other", "longer", "path", "injection", "null", "number", "list", "object"],
)
def test_j5_an_unknown_kid_is_refused(kid: object) -> None:
    token = Token()
    token.header["kid"] = kid
    assert refused(token.signed())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jku", "https://evil.example/jwks.json"),
        ("x5u", "https://evil.example/cert.pem"),
        ("jwk", issuer(OTHER_KEY).jwks()["keys"][0]),
        ("x5c", ["MIIB"]),
        ("x5t", "abc"),
        ("crit", ["exp"]),
        ("crit", []),
        ("b64", False),
        ("zip", "DEF"),
        ("enc", "A256GCM"),
        ("cty", "JWT"),
        ("anything", None),
    ],
)
def test_j5_a_further_header_name_is_refused_even_over_a_good_signature(name: str, value: object) -> None:
    token = Token()
    token.header[name] = value
    assert refused(token.signed())


def test_j5_a_key_sent_along_does_not_verify_its_own_signature() -> None:
    token = Token()
    token.header["jwk"] = issuer(OTHER_KEY).jwks()["keys"][0]
    assert refused(token.signed(es256(token.signing_input, private_of(OTHER_KEY))))


@pytest.mark.parametrize("header", [b"[]", b'"alg"', b"null", b"{", b"", b"\xff", b"[" * 3000, b'{"alg":"ES256"}'])
def test_j5_a_header_that_is_not_ours_is_refused(header: bytes) -> None:
    message = f"{encoded(header)}.{encoded(json.dumps(Token().claims).encode())}".encode()
    assert refused(f"{message.decode()}.{encoded(es256(message, private_of(KEY)))}")


# J7: key rotation


def test_j7_an_old_key_verifies_until_it_is_removed_and_signs_no_more() -> None:
    before = issuer(KEY)
    token, _ = before.issue(subject="usr_1", tenant_id=None, scopes=SCOPES, session_id=None)
    retired = SigningKey(kid=KEY.kid, public_pem=KEY.public_pem, private_pem=None)
    both = issuer(OTHER_KEY, retired)
    assert not refused(token, both)
    assert {key["kid"] for key in both.jwks()["keys"]} == {KEY.kid, OTHER_KEY.kid}
    newer, _ = both.issue(subject="usr_1", tenant_id=None, scopes=SCOPES, session_id=None)
    assert json.loads(decoded(newer.split(".")[0]))["kid"] == OTHER_KEY.kid
    both.replace_keys((OTHER_KEY,))
    assert refused(token, both)
    assert not refused(newer, both)


def test_j7_the_published_keys_verify_a_token_without_our_code() -> None:
    token, _ = issuer().issue(subject="usr_1", tenant_id=None, scopes=SCOPES, session_id=None)
    [published] = issuer().jwks()["keys"]
    assert {name: published[name] for name in ("kty", "crv", "use", "alg", "kid")} == {
        "kty": "EC",
        "crv": "P-256",
        "use": "sig",
        "alg": "ES256",
        "kid": KEY.kid,
    }
    assert "d" not in published
    x, y = (int.from_bytes(decoded(published[name]), "big") for name in ("x", "y"))
    public = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    header, claims, signature = token.split(".")
    raw = decoded(signature)
    der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    public.verify(der, f"{header}.{claims}".encode(), ec.ECDSA(hashes.SHA256()))
    with pytest.raises(InvalidSignature):
        public.verify(der, f"{header}.{claims}x".encode(), ec.ECDSA(hashes.SHA256()))


def test_j7_published_coordinates_always_have_their_full_width() -> None:
    # One key in 128 has a coordinate that begins with a zero byte.
    for _ in range(300):
        [published] = issuer(generate_signing_key()).jwks()["keys"]
        assert (len(published["x"]), len(published["y"])) == (43, 43)


# J8: encrypted, overlong, garbage


def test_j8_an_encrypted_token_is_refused() -> None:
    content = jwe.encrypt(json.dumps(Token().claims), "0" * 32, algorithm="dir", encryption="A256GCM").decode()
    assert content.count(".") == 4
    assert refused(content)


def test_j8_a_token_beyond_eight_kibibytes_is_refused_however_good() -> None:
    token = Token()
    token.claims["jti"] = "x" * 1000
    spare = MAX_TOKEN_BYTES - len(token.signed())
    token.claims["jti"] += "x" * (spare * 3 // 4)
    longest = token.signed()
    assert MAX_TOKEN_BYTES - 4 < len(longest) <= MAX_TOKEN_BYTES == 8192
    assert not refused(longest)
    token.claims["jti"] += "x" * 4
    assert len(token.signed()) > MAX_TOKEN_BYTES
    assert refused(token.signed())


@given(st.text(max_size=200) | st.text("abcXYZ09-_.=", max_size=200) | st.binary(max_size=100).map(encoded))
def test_j8_garbage_is_refused(text: str) -> None:
    assert refused(text)


@given(st.lists(st.binary(max_size=60).map(encoded), min_size=3, max_size=3))
def test_j8_three_parts_of_garbage_are_refused(parts: list[str]) -> None:
    assert refused(".".join(parts))


@pytest.mark.parametrize("around", ["{} ", " {}", "{}\n", "{}=", "{}==", "{}.", ".{}", "Bearer {}"])
def test_j8_nothing_may_stand_around_a_token(around: str) -> None:
    assert refused(around.format(Token().signed()))


def test_j8_a_token_has_one_spelling() -> None:
    token, by = Token().signed(), issuer()
    assert not refused(token, by)
    for place in range(0, len(token), 7):
        for skipped in ("!", "=", "\n", " ", "\u00e9", "\u0660"):
            assert refused(token[:place] + skipped + token[place:], by)
    # The last character of a signature has four bits that mean nothing.
    others = [token[:-1] + last for last in string.ascii_letters + string.digits + "-_" if last != token[-1]]
    assert all(refused(other, by) for other in others)


# J9: a short life


def test_j9_a_token_lives_at_most_a_quarter_of_an_hour() -> None:
    assert TTL_S <= 15 * 60
    claims = issuer().verify(issuer().issue(subject="u", tenant_id=None, scopes=SCOPES, session_id=None)[0])
    assert (claims.expires_at - claims.issued_at).total_seconds() == TTL_S


@pytest.mark.parametrize("iat", [NOW_S, NOW_S - 600])
def test_j9_a_token_with_a_longer_life_than_ours_is_refused_even_over_a_good_signature(iat: int) -> None:
    token = Token()
    token.claims |= {"iat": iat, "exp": iat + TTL_S}
    assert not refused(token.signed())
    token.claims["exp"] += 1
    assert refused(token.signed())


@pytest.mark.parametrize("exp", [10**12, 10**30, -1, 0])
def test_j9_an_impossible_expiry_is_refused(exp: int) -> None:
    token = Token()
    token.claims["exp"] = exp
    assert refused(token.signed())
