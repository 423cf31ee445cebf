"""Counts the unknown API keys of each address, in one process: it is asked before anything that costs I/O."""

from backend.adapters.memory.bounded_map import BoundedMap
from backend.domain.clock import Clock
from backend.domain.limits import NOTHING_OWED, WINDOW_S, RateLevel, RateRule, decide_rates, owed_rows, whole_seconds
from backend.domain.login_delays import network_of


class MemoryStrangerThrottle:
    """Implements ``StrangerThrottle``: so many a minute from one network, drained evenly."""

    def __init__(self, clock: Clock, *, per_minute: int, max_networks: int = 100_000) -> None:
        self._clock = clock
        self._rule = RateRule(scope="key", subject="strangers", per_window=per_minute)
        self._levels: BoundedMap[str, RateLevel] = BoundedMap(max_networks)

    def enter(self, address: str) -> int:
        """Count a key that is not at hand; return the seconds to wait, 0 when it may be looked up."""
        now_s, network = self._clock.now_s(), network_of(address)
        level = self._levels.get(network, now_s) or NOTHING_OWED
        decision = decide_rates((self._rule,), (level,), 1, now_s)
        if not decision.allowed:
            return whole_seconds(decision.retry_after_s)
        self._levels.put(network, decision.levels[0], expires_at_s=now_s + WINDOW_S)
        return 0

    def leave(self, address: str) -> None:
        """Take the count back: the key was a real one."""
        now_s, network = self._clock.now_s(), network_of(address)
        level = self._levels.get(network, now_s)
        if level is not None:
            rows = max(0.0, owed_rows(self._rule, level, now_s) - 1)
            self._levels.put(network, RateLevel(rows, max(level.at_s, now_s)), expires_at_s=now_s + WINDOW_S)
