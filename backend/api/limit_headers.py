"""What an answer says about limits: draft-ietf-httpapi-ratelimit-headers, and the month's quota."""

from datetime import UTC, datetime
from functools import lru_cache

from backend.domain.admission import Standing
from backend.domain.limits import QuotaState, RateState

RawHeaders = list[tuple[bytes, bytes]]

UNLIMITED = "unlimited"


def limit_headers(standing: Standing) -> dict[str, str]:
    """Return the headers for a standing: the most constrained rate limit first, then the tightest quota."""
    return {name.decode(): value.decode() for name, value in raw_limit_headers(standing)}


def raw_limit_headers(standing: Standing) -> RawHeaders:
    """Return the same as they go over the wire."""
    headers: RawHeaders = []
    rates, quotas = standing.rates, standing.quotas
    if rates:
        policy = ", ".join(
            [f'"{state.rule.scope}";q={state.rule.per_window};w={state.rule.window_s}' for state in rates]
        )
        left = ", ".join(
            [f'"{state.rule.scope}";r={state.remaining};t={state.reset_s}' for state in sorted(rates, key=_part_left)]
        )
        headers += [(b"ratelimit-policy", policy.encode()), (b"ratelimit", left.encode())]
    if quotas:
        quota = quotas[0] if len(quotas) == 1 else min(quotas, key=_rows_left)
        capped = quota.rule.limit is not None
        headers += [
            (b"x-quota-limit", str(quota.rule.limit if capped else UNLIMITED).encode()),
            (b"x-quota-used", str(quota.used + quota.reserved).encode()),
            (b"x-quota-remaining", str(quota.remaining if capped else UNLIMITED).encode()),
            (b"x-quota-reset", _written(quota.resets_at_s)),
        ]
    return headers


def _part_left(state: RateState) -> float:
    return state.remaining / state.rule.per_window


def _rows_left(state: QuotaState) -> float:
    return float("inf") if state.remaining is None else state.remaining


@lru_cache(maxsize=8)
def _written(instant_s: int) -> bytes:
    # The same all month.
    return datetime.fromtimestamp(instant_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()
