"""What can be made of an answer before it is known to be one: while admission is asked, there is nothing else to do.

A question that came from the response cache the last time will do so again, nearly always, and is answered as soon as
admission says so. So its usage event is made meanwhile, and thrown away where things turn out otherwise. Of any other
question nothing is foreseen: a model has to run first, and its event tells when it was answered.
"""

from collections.abc import Callable

from backend.domain.admission import Lease
from backend.domain.clock import Clock
from backend.domain.ids import new_id
from backend.domain.limits import period_of
from backend.domain.usage import UsageEvent

MakeEvent = Callable[[str, str, int, int], UsageEvent]
"""From an event's id, its period, its units and how many of them were cached."""


class Foreseen:
    """The event of one question. To be called when there is time for it; where there is none, nothing was foreseen.

    Args:
        make: makes it.
        prepare: does what can be done already of writing it.
        units: the rows that are asked for.
        clock: says in which month.
    """

    __slots__ = ("_clock", "_event", "_make", "_prepare", "_units", "event_id")

    def __init__(self, make: MakeEvent, prepare: Callable[[UsageEvent], None], units: int, clock: Clock) -> None:
        self._make = make
        self._prepare = prepare
        self._units = units
        self._clock = clock
        self._event: UsageEvent | None = None
        self.event_id = new_id("evt")
        """Its id, and that of the lease."""

    def __call__(self) -> None:
        """Make it, and spell it."""
        event = self._make(self.event_id, period_of(self._clock.now_s()), self._units, self._units)
        self._prepare(event)
        self._event = event

    def event_of(self, lease: Lease, cached_units: int) -> UsageEvent | None:
        """Return it, if this is what was foreseen: the same lease, in the same month, and all rows from the cache."""
        event = self._event
        if event is None or event.cached_units != cached_units or event.id != lease.id or event.period != lease.period:
            return None
        return event
