"""What the admission scripts are sent and what they answer, in the forms that ``admit.lua`` and ``settle.lua`` name."""

import json
import struct
from collections.abc import Sequence
from typing import NamedTuple

from backend.adapters.redis import keys
from backend.adapters.redis.line import Reply, Value
from backend.adapters.redis.wordings import Wording, Wordings, limit_keys
from backend.domain.admission import AdmissionRequest, Lease, Settlement, StoredAnswer
from backend.domain.api_keys import Environment
from backend.domain.ids import TenantId
from backend.domain.limits import QuotaRule, QuotaState, RateLevel, RateRule, period_end_s, period_start_s

ASK_SERVER = -1.0
"""In place of an instant: the server's own clock decides."""
_ASK_SERVER = repr(ASK_SERVER)

UNCAPPED = -1.0

SPENDS = 1.0
SPENDS_IN_SHADOW = 2.0

COUNTER_KEPT_S = 45 * 86_400
"""How long counters outlive their period, so that it can be reconciled when it is closed."""

_FEW = [struct.Struct(f">{count}d") for count in range(32)]


class Call(NamedTuple):
    """The keys and arguments of one script call."""

    keys: list[str | bytes]
    args: list[Value]


class Keeping(NamedTuple):
    """How long answers and rows are kept, as a script is told; longer rows than that are not kept at all."""

    answer_s: str
    row_ms: int
    row_limit_bytes: int

    @classmethod
    def of(cls, *, answer_ttl_s: float, row_ttl_s: float, row_limit_bytes: int) -> "Keeping":
        """Spell it once for all calls."""
        return cls(repr(answer_ttl_s), max(1, round(row_ttl_s * 1000)), row_limit_bytes)


class Seen(NamedTuple):
    """The limits as a script saw them."""

    now_s: float
    levels: tuple[RateLevel, ...]
    quotas: tuple[QuotaState, ...]


class Terms(NamedTuple):
    """What every decision is told by this process."""

    epoch_ttl_s: int
    lease_ttl_s: float


def spell_numbers(request: AdmissionRequest, wording: Wording, terms: Terms, now_s: float) -> bytes:
    """Return the numbers of a request: the same object as long as they are the same ones."""
    epochs = request.epochs
    # All that makes a request's numbers differ from those of another with the same limits: not its rows.
    said = (now_s, request.enforcement, epochs.tenant, epochs.credential, epochs.fresh)
    if wording.said != said:
        period = wording.period
        numbers = [
            now_s,
            period_start_s(period),
            period_end_s(period),
            SPENDS if request.enforces else SPENDS_IN_SHADOW,
            epochs.tenant,
            epochs.credential,
            epochs.fresh,
            terms.epoch_ttl_s,
            terms.lease_ttl_s,
            *_rules(request.rates, request.quotas),
        ]
        wording.numbers, wording.said = _pack(numbers), said
    return wording.numbers


def spelt_lease(cost: int, lease_id: str) -> str:
    """Return a lease as it stands among the others of a counter: all that a script need know of it."""
    return f"{cost}:{lease_id}"


def admit_call(tenant_id: TenantId, request: AdmissionRequest, wording: Wording, numbers: bytes) -> Call:
    """Return the call that decides a request."""
    touched: list[str | bytes] = [*wording.heads, *wording.counters]
    claim = request.idempotency
    if claim is not None:
        touched.append(keys.idempotency_slot(tenant_id, request.credential_id, claim.key))
    if request.cache_keys:
        prefix = keys.cached_row_prefix(tenant_id)
        touched += [prefix + digest for digest in request.cache_keys]
    return Call(touched, [numbers, request.lease_id, b"" if claim is None else claim.fingerprint, request.cost])


def admit_all_call(tenant_id: TenantId, requests: Sequence[AdmissionRequest], wording: Wording, numbers: bytes) -> Call:
    """Return the call that decides several requests that differ in their rows and leases only."""
    prefix = keys.cached_row_prefix(tenant_id)
    touched: list[str | bytes] = [*wording.heads]
    touched += [prefix + digest for request in requests for digest in request.cache_keys]
    touched += wording.counters
    costs = _pack([request.cost for request in requests])
    return Call(touched, [numbers, costs, *[spelt_lease(request.cost, request.lease_id) for request in requests]])


def look_call(
    tenant_id: TenantId,
    environment: Environment,
    rates: tuple[RateRule, ...],
    quotas: tuple[QuotaRule, ...],
    *,
    period: str,
    now_s: float,
    token: str,
) -> Call:
    """Return the call that only looks at the limits. ``token`` is for counters that have not begun."""
    numbers = [now_s, period_start_s(period), period_end_s(period), *[0.0] * 6, *_rules(rates, quotas)]
    epochs = [keys.tenant_epoch(tenant_id)] * 2  # Not looked at, but they have their places.
    limits = limit_keys(tenant_id, environment, period, rates, quotas)
    return Call(keys=[*epochs, *limits], args=[_pack(numbers), token, b"", 0])


def settle_call(
    tenant_id: TenantId, settlement: Settlement, wordings: Wordings, keeping: Keeping, *, now_s: float
) -> Call:
    """Return the call that turns a lease into use."""
    call = _end_call(tenant_id, settlement.lease, b"settle", wordings, keeping, now_s=now_s)
    answer = settlement.answer
    if answer is None:
        call.args.extend((b"", b"", b""))
    else:
        call.args.extend((answer.status, json.dumps(answer.headers), answer.body))
    if settlement.cache_fill:
        prefix = keys.cached_row_prefix(tenant_id)
        for digest, row in settlement.cache_fill:
            if len(row) <= keeping.row_limit_bytes:
                call.keys.append(prefix + digest)
                call.args.append(row)
    return call


def release_call(tenant_id: TenantId, lease: Lease, wordings: Wordings, keeping: Keeping, *, now_s: float) -> Call:
    """Return the call that gives a lease back."""
    call = _end_call(tenant_id, lease, b"release", wordings, keeping, now_s=now_s)
    call.args.extend((b"", b"", b""))
    return call


def read_standing(reply: Reply, rates: tuple[RateRule, ...], quotas: tuple[QuotaRule, ...], period: str) -> Seen:
    """Take the standing of an answer apart."""
    numbers = read_numbers(reply)
    resets_at_s = period_end_s(period)
    counts = 1 + 2 * len(rates)
    return Seen(
        now_s=numbers[0],
        levels=tuple([RateLevel(numbers[i], numbers[i + 1]) for i in range(1, counts, 2)]),
        quotas=tuple(
            [
                QuotaState(
                    rule=rule,
                    used=int(numbers[counts + 2 * i]),
                    reserved=int(numbers[counts + 2 * i + 1]),
                    resets_at_s=resets_at_s,
                )
                for i, rule in enumerate(quotas)
            ]
        ),
    )


def read_numbers(reply: Reply) -> tuple[float, ...]:
    """Return the doubles in an answer's second place."""
    packed = _bytes(reply[1])
    return _struct(len(packed) // 8).unpack(packed)


def read_missing(reply: Reply, quotas: tuple[QuotaRule, ...]) -> dict[QuotaRule, str]:
    """Return the rules whose counters have not begun, each with its token."""
    pairs = zip(reply[1::2], reply[2::2], strict=True)
    return {quotas[int(place or 0) - 1]: _bytes(token).decode() for place, token in pairs}


def read_answer(reply: Reply) -> StoredAnswer:
    """Return the stored answer of a replay."""
    status, headers, body = (_bytes(part) for part in reply[2:5])
    pairs = tuple([(str(name), str(value)) for name, value in json.loads(headers)])
    return StoredAnswer(status=int(status), body=body, headers=pairs)


def read_rows(reply: Reply) -> tuple[bytes | None, ...]:
    """Return the cached rows of an admitted request."""
    return as_rows(reply[2:])


def as_rows(places: Sequence[bytes | int | None]) -> tuple[bytes | None, ...]:
    """Return cached rows as what they are."""
    return tuple([row if row is None or isinstance(row, bytes) else _bytes(row) for row in places])


def _end_call(
    tenant_id: TenantId, lease: Lease, how: bytes, wordings: Wordings, keeping: Keeping, *, now_s: float
) -> Call:
    touched: list[str | bytes] = [*wordings.counters_of(lease)]
    claim = lease.idempotency
    if claim is not None:
        touched.append(keys.idempotency_slot(tenant_id, lease.credential_id, claim.key))
    now = _ASK_SERVER if now_s == ASK_SERVER else repr(now_s)
    holds_slot = 0 if claim is None else 1
    counters = len(lease.quotas)
    return Call(touched, [now, how, lease.cost, lease.id, counters, holds_slot, keeping.answer_s, keeping.row_ms])


def _rules(rates: tuple[RateRule, ...], quotas: tuple[QuotaRule, ...]) -> list[float]:
    numbers: list[float] = [len(rates), len(quotas)]
    for rate in rates:
        numbers += (rate.per_window, rate.window_s)
    for quota in quotas:
        cap = quota.limit
        numbers.append(cap if cap is not None and quota.must_hold else UNCAPPED)
    return numbers


def _pack(numbers: Sequence[float]) -> bytes:
    return _struct(len(numbers)).pack(*numbers)


def _struct(count: int) -> struct.Struct:
    return _FEW[count] if count < len(_FEW) else struct.Struct(f">{count}d")


def _bytes(value: bytes | int | None) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("a script answered in another form than it should")
    return value
