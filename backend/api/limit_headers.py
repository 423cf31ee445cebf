"""What an answer says about limits: draft-ietf-httpapi-ratelimit-headers, and the month's quota."""

from datetime import UTC, datetime

from backend.domain.admission import Standing

UNLIMITED = "unlimited"


def limit_headers(standing: Standing) -> dict[str, str]:
    """Return the headers for a standing: the most constrained rate limit first, then the tightest quota."""
    headers: dict[str, str] = {}
    if standing.rates:
        rates = standing.rates
        headers["RateLimit-Policy"] = ", ".join(
            [f'"{state.rule.scope}";q={state.rule.per_window};w={state.rule.window_s}' for state in rates]
        )
        tightest_first = sorted(rates, key=lambda state: state.remaining / state.rule.per_window)
        headers["RateLimit"] = ", ".join(
            [f'"{state.rule.scope}";r={state.remaining};t={state.reset_s}' for state in tightest_first]
        )
    if standing.quotas:
        quota = min(
            standing.quotas,
            key=lambda state: float("inf") if state.remaining is None else state.remaining,
        )
        capped = quota.rule.limit is not None
        headers["X-Quota-Limit"] = str(quota.rule.limit) if capped else UNLIMITED
        headers["X-Quota-Used"] = str(quota.used + quota.reserved)
        headers["X-Quota-Remaining"] = str(quota.remaining) if capped else UNLIMITED
        headers["X-Quota-Reset"] = datetime.fromtimestamp(quota.resets_at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return headers
