"""Webhooks: what is signed, when it is tried again, and when an endpoint is given up."""

import base64
import hashlib
import hmac
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis.strategies import binary, floats, integers

from backend.domain.ids import TenantId
from backend.domain.webhook_deliveries import (
    DELAYS_S,
    EXCERPT_CHARS,
    LONGEST_WAIT_S,
    Attempt,
    Delivery,
    DeliveryStatus,
    excerpt_of,
    retry_after_of,
    wait_after,
)
from backend.domain.webhooks import (
    FAILING_FOR,
    DisabledBecause,
    PreviousSecret,
    WebhookEndpoint,
    WebhookEvent,
    WebhookMessage,
    audit_view,
    mint_secret,
    signature_headers,
)

NOW = datetime(2026, 7, 15, 12, tzinfo=UTC)


def an_endpoint(**changes: Any) -> WebhookEndpoint:
    endpoint = WebhookEndpoint(
        id="whk_1",
        tenant_id=TenantId("ten_1"),
        url="https://hooks.example.com/services/T0KEN?sig=abc",
        description="",
        events=None,
        sealed_secret=b"sealed",
        previous=None,
        created_by="usr_1",
        created_at=NOW,
    )
    return replace(endpoint, **changes)


def a_delivery(event: WebhookEvent = WebhookEvent.USAGE_THRESHOLD_REACHED) -> Delivery:
    return Delivery.of(WebhookMessage.telling(event, {"a": 1}, NOW), an_endpoint(), NOW)


def an_attempt(status: int | None, at: datetime = NOW) -> Attempt:
    return Attempt(at=at, status=status, failure=None if status else "timeout", duration_ms=5)


# Signatures


def test_a_signature_is_what_the_specification_says() -> None:
    """The values that the specification's own libraries are tested with."""
    headers = signature_headers(
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        b'{"test": 2432232314}',
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",),
        datetime.fromtimestamp(1614265330, UTC),
    )
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_during_a_rotation_there_is_a_signature_of_each_secret() -> None:
    secrets = (mint_secret(), mint_secret())
    headers = signature_headers("msg_1", b"{}", secrets, NOW)
    expected = [
        base64.b64encode(
            hmac.new(
                base64.b64decode(secret.removeprefix("whsec_")),
                f"msg_1.{int(NOW.timestamp())}.{{}}".encode(),
                hashlib.sha256,
            ).digest()
        ).decode()
        for secret in secrets
    ]
    assert headers["webhook-signature"].split(" ") == [f"v1,{signature}" for signature in expected]


def test_a_secret_has_256_bits_and_the_specifications_prefix() -> None:
    made = {mint_secret() for _ in range(100)}
    assert len(made) == 100
    for secret in made:
        assert secret.startswith("whsec_")
        assert len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) == 32


def test_a_message_says_what_when_and_under_which_id() -> None:
    message = WebhookMessage.telling(WebhookEvent.PERIOD_CLOSED, {"period": "2026-07"}, NOW)
    assert json.loads(message.body) == {
        "id": message.id,
        "type": "period.closed",
        "timestamp": "2026-07-15T12:00:00.000Z",
        "data": {"period": "2026-07"},
    }
    assert message.id.startswith("msg_")


# The schedule


def test_attempts_go_on_for_about_three_days() -> None:
    shortest = sum(wait_after(made, jitter=0.0) for made in range(1, len(DELAYS_S) + 1))
    longest = sum(wait_after(made, jitter=1.0) for made in range(1, len(DELAYS_S) + 1))
    assert timedelta(days=2, hours=20) <= timedelta(seconds=shortest)
    assert timedelta(seconds=longest) <= timedelta(days=3, hours=18)
    assert list(DELAYS_S) == sorted(DELAYS_S)


@given(integers(1, len(DELAYS_S)), floats(0, 1), integers(0, 10**9))
def test_a_wait_is_the_plans_or_the_endpoints_but_never_longer_than_a_day(made: int, jitter: float, asked: int) -> None:
    wait_s = wait_after(made, jitter=jitter, retry_after_s=asked)
    assert wait_s >= DELAYS_S[made - 1]
    assert wait_s <= max(DELAYS_S[made - 1] * 1.2, LONGEST_WAIT_S)
    assert wait_s >= min(asked, LONGEST_WAIT_S)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("", None),
        ("120", 120),
        (" 7 ", 7),
        ("99999999999999999999", LONGEST_WAIT_S),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("\u0661", None),
        ("Wed, 15 Jul 2026 12:01:00 GMT", 60),
        ("Wed, 15 Jul 2026 11:59:00 GMT", None),
        ("Wed, 15 Jul 2099 12:00:00 GMT", LONGEST_WAIT_S),
        ("Wed, 99 Jul 2026 12:00:00 GMT", None),
    ],
)
def test_retry_after_is_read_in_both_forms(header: str | None, expected: int | None) -> None:
    assert retry_after_of(header, NOW) == expected


# A delivery


def test_a_success_ends_a_delivery() -> None:
    for status in (200, 201, 204, 299):
        after = replace(a_delivery(), attempts=1).after(an_attempt(status), retry_after_s=None, jitter=0.0)
        assert (after.status, after.next_attempt_at) == (DeliveryStatus.DELIVERED, None)


@pytest.mark.parametrize("status", [None, 100, 199, 300, 302, 400, 401, 404, 429, 500, 503])
def test_anything_else_is_tried_again(status: int | None) -> None:
    after = replace(a_delivery(), attempts=1).after(an_attempt(status), retry_after_s=None, jitter=0.0)
    assert (after.status, after.next_attempt_at) == (DeliveryStatus.PENDING, NOW + timedelta(seconds=DELAYS_S[0]))
    assert [each.status for each in after.log] == [status]


def test_gone_ends_a_delivery_at_once() -> None:
    after = replace(a_delivery(), attempts=1).after(an_attempt(410), retry_after_s=None, jitter=0.0)
    assert (after.status, after.next_attempt_at) == (DeliveryStatus.FAILED, None)


def test_a_test_message_is_tried_once() -> None:
    delivery = replace(a_delivery(WebhookEvent.TEST), attempts=1)
    assert delivery.after(an_attempt(500), retry_after_s=None, jitter=0.0).status is DeliveryStatus.FAILED


def test_after_the_last_attempt_it_is_given_up_and_another_round_can_be_asked_for() -> None:
    delivery = a_delivery()
    for made in range(1, len(DELAYS_S) + 2):
        assert delivery.status is DeliveryStatus.PENDING
        delivery = replace(delivery, attempts=made).after(an_attempt(500), retry_after_s=None, jitter=0.5)
    assert delivery.status is DeliveryStatus.FAILED
    again = delivery.again(NOW)
    assert (again.status, again.next_attempt_at, again.message_id) == (
        DeliveryStatus.PENDING,
        NOW,
        delivery.message_id,
    )
    once_more = replace(again, attempts=again.attempts + 1).after(an_attempt(500), retry_after_s=None, jitter=0.0)
    assert once_more.next_attempt_at == NOW + timedelta(seconds=DELAYS_S[0])


def test_the_log_is_bounded() -> None:
    delivery = a_delivery()
    for made in range(1, 50):
        delivery = replace(delivery.again(NOW), attempts=made).after(an_attempt(500), retry_after_s=None, jitter=0.0)
    assert len(delivery.log) == 20


# What is kept of answers


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", None),
        (b" \r\n\t ", None),
        (b"no such hook", "no such hook"),
        (b"a\r\nb\x00c\x1b[31m", "a b c [31m"),
        (b"key fc_live_abcdefghijkl_0123456789 was refused", "key [secret] was refused"),
        (b'{"authorization": "Bearer abc.def-ghi"}', '{"authorization": "[secret]"}'),
        (b"signature v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE= wrong", "signature [secret] wrong"),
        (b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "[secret]"),
        (b"token eyJhbGciOiJFUzI1NiJ9.eyJzdWIi.c2ln", "token [secret]"),
    ],
)
def test_k3_an_excerpt_is_one_line_without_secrets(body: bytes, expected: str | None) -> None:
    assert excerpt_of(body) == expected


@given(binary(max_size=5000))
def test_an_excerpt_is_short_and_printable(body: bytes) -> None:
    excerpt = excerpt_of(body)
    assert excerpt is None or (len(excerpt) <= EXCERPT_CHARS and excerpt.isprintable())


def test_k3_a_secret_at_the_end_of_an_excerpt_is_not_cut_into_one_that_passes() -> None:
    secret = "whsec_" + "A" * 44
    for length in range(EXCERPT_CHARS - 60, EXCERPT_CHARS + 10):
        assert "AAAA" not in (excerpt_of(b"x" * length + b" " + secret.encode()) or "")


# An endpoint


def test_an_endpoint_that_fails_for_days_is_disabled_and_a_success_forgives() -> None:
    endpoint = an_endpoint().after_failure(NOW)
    assert endpoint.failing_since == NOW
    later = endpoint.after_failure(NOW + FAILING_FOR - timedelta(seconds=1))
    assert later.is_enabled
    assert later.failing_since == NOW
    assert later.after_success().failing_since is None
    ended = later.after_failure(NOW + FAILING_FOR)
    assert ended.disabled_because is DisabledBecause.FAILING
    assert ended.enabled() == an_endpoint()


def test_it_is_told_of_what_it_wants_while_it_is_enabled() -> None:
    some = an_endpoint(events=(WebhookEvent.API_KEY_REVOKED,))
    assert some.wants(WebhookEvent.API_KEY_REVOKED)
    assert not some.wants(WebhookEvent.PERIOD_CLOSED)
    assert an_endpoint().wants(WebhookEvent.PERIOD_CLOSED)
    assert not an_endpoint().disabled(DisabledBecause.ASKED, NOW).wants(WebhookEvent.PERIOD_CLOSED)


def test_a_previous_secret_counts_until_its_end() -> None:
    previous = PreviousSecret(sealed=b"old", valid_until=NOW)
    endpoint = an_endpoint(previous=previous)
    assert endpoint.overlap_at(NOW - timedelta(seconds=1)) == previous
    assert endpoint.overlap_at(NOW) is None


def test_g1_the_audit_log_keeps_no_secret_of_an_endpoint() -> None:
    view = str(audit_view(an_endpoint(previous=PreviousSecret(sealed=b"old", valid_until=NOW))))
    for secret in ("sealed", "old", "T0KEN", "sig=abc"):
        assert secret not in view
    assert "https://hooks.example.com" in view
    assert audit_view(an_endpoint()) != audit_view(an_endpoint(url="https://hooks.example.com/other"))
