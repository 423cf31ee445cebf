"""What an answer says about limits: draft-ietf-httpapi-ratelimit-headers, and the month's quota."""

from datetime import UTC, datetime
from functools import lru_cache

from backend.domain.admission import Standing
from backend.domain.limits import QuotaState, RateState

UNLIMITED = "unlimited"


def limit_headers(standing: Standing) -> dict[str, str]:
    """Return the headers for a standing: the most constrained rate limit first, then the tightest quota."""
    return dict(line.split(": ", 1) for line in limit_lines(standing).splitlines())


def limit_lines(standing: Standing) -> str:
    """Return the same as they go over the wire, each with its end."""
    rates, quotas = standing.rates, standing.quotas
    return (_rate_lines(rates) if rates else "") + (_quota_lines(quotas) if quotas else "")


def _rate_lines(rates: tuple[RateState, ...]) -> str:
    policy = ", ".join([f'"{state.rule.scope}";q={state.rule.per_window};w={state.rule.window_s}' for state in rates])
    tightest_first = sorted(rates, key=_part_left) if len(rates) > 1 else rates
    left = ", ".join([f'"{state.rule.scope}";r={state.remaining};t={state.reset_s}' for state in tightest_first])
    return f"ratelimit-policy: {policy}\r\nratelimit: {left}\r\n"


def _quota_lines(quotas: tuple[QuotaState, ...]) -> str:
    quota = quotas[0] if len(quotas) == 1 else min(quotas, key=_rows_left)
    limit, left = quota.rule.limit, quota.remaining
    return (
        f"x-quota-limit: {UNLIMITED if limit is None else limit}\r\n"
        f"x-quota-used: {quota.used + quota.reserved}\r\n"
        f"x-quota-remaining: {UNLIMITED if left is None else left}\r\n"
        f"x-quota-reset: {_written(quota.resets_at_s)}\r\n"
    )


def _part_left(state: RateState) -> float:
    return state.remaining / state.rule.per_window


def _rows_left(state: QuotaState) -> float:
    return float("inf") if state.remaining is None else state.remaining


@lru_cache(maxsize=8)
def _written(instant_s: int) -> str:
    # The same all month.
    return datetime.fromtimestamp(instant_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
