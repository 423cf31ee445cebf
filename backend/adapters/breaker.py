"""A circuit breaker: what has failed several times in a row is left alone for a while. Knows no technology.

closed ──several failures in a row──▶ open ──rested──▶ half-open ──one call succeeds──▶ closed
                                       ▲                    │
                                       └──that call fails───┘
"""

import logging
import time
from collections.abc import Callable
from enum import StrEnum

from backend.services.ports import Metrics

log = logging.getLogger(__name__)

FAILURES_TO_OPEN = 3
REST_S = 0.5


class BreakerState(StrEnum):
    """Whether calls are let through: all, none, or one that tries."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class BreakerMeter:
    """What every breaker shows of itself: how often its state changed, and whether it lets calls through."""

    def __init__(self, resource: str, metrics: Metrics) -> None:
        self._shut = metrics.gauge(
            "forecourt_breaker_open", "1 while calls are not let through, 0 while they are.", resource=resource
        )
        self._changes = {
            state: metrics.counter(
                "forecourt_breaker_transitions_total",
                "Changes of a circuit breaker.",
                resource=resource,
                to=state.value,
            )
            for state in BreakerState
        }
        self._shut.set(0)

    def changed(self, state: BreakerState, *, is_shut: bool) -> None:
        """Count a change to a state."""
        self._changes[state].add()
        self._shut.set(float(is_shut))


class Breaker:
    """Lets calls through or not. Ask :meth:`enter`, then tell what became of the call under the ticket it gave.

    A ticket is good for the state it was given in: an answer that comes late, from before the breaker opened, neither
    closes it nor keeps it open.

    Args:
        name: of what is called, for the log and as a label: a word, no address.
        metrics: counts transitions and shows the state.
        failures_to_open: so many in a row open it.
        rest_s: how long it stays open before one call may try.
        monotonic: seconds that only grow.
    """

    def __init__(
        self,
        name: str,
        metrics: Metrics,
        *,
        failures_to_open: int = FAILURES_TO_OPEN,
        rest_s: float = REST_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._failures_to_open = failures_to_open
        self._rest_s = rest_s
        self._monotonic = monotonic
        self._state = BreakerState.CLOSED
        self._ticket = 0
        self._failures = 0
        self._rested_at_s = 0.0
        self._meter = BreakerMeter(name, metrics)

    @property
    def state(self) -> BreakerState:
        """Where it is now."""
        return self._state

    @property
    def is_closed(self) -> bool:
        """Whether everything is let through."""
        return self._state is BreakerState.CLOSED

    def enter(self, *, may_try: bool = True) -> int | None:
        """Return a ticket, or ``None`` when the call must not be made.

        Args:
            may_try: whether the call, succeeding, would show that all is well again; if not, an open breaker
                does not let it through however long it has rested.
        """
        if self._state is BreakerState.CLOSED:
            return self._ticket
        if self._state is BreakerState.OPEN and may_try and self._monotonic() >= self._rested_at_s:
            self._change(BreakerState.HALF_OPEN)
            return self._ticket
        return None

    def succeeded(self, ticket: int) -> None:
        """Note that a call was answered."""
        if ticket == self._ticket:
            self._failures = 0
            if self._state is BreakerState.HALF_OPEN:
                self._change(BreakerState.CLOSED)
                log.info("%s answers again", self._name)

    def failed(self, ticket: int, cause: BaseException) -> None:
        """Note that a call was not answered, or not in time."""
        if ticket != self._ticket:
            return
        self._failures += 1
        if self._state is BreakerState.HALF_OPEN:
            self._open()
        elif self._failures >= self._failures_to_open:
            log.warning("%s does not answer: it is left alone", self._name, extra={"cause": type(cause).__name__})
            self._open()

    def gave_up(self, ticket: int) -> None:
        """Note that whoever made the call left before it was answered: nothing is known, another may try at once."""
        if ticket == self._ticket and self._state is BreakerState.HALF_OPEN:
            self._open(rest_s=0.0)

    def _open(self, *, rest_s: float | None = None) -> None:
        self._rested_at_s = self._monotonic() + (self._rest_s if rest_s is None else rest_s)
        self._change(BreakerState.OPEN)

    def _change(self, state: BreakerState) -> None:
        self._state = state
        self._ticket += 1
        self._failures = 0
        self._meter.changed(state, is_shut=state is not BreakerState.CLOSED)
