"""Nothing waits for a dead server twice: this breaker opens at the first failure, and asks by itself when it may close.

For the database, where a failure costs a caller seconds: no caller is sent ahead to find out whether it is back.

=============  ======================================  =====================================================
state          who may use the part                    how it ends
=============  ======================================  =====================================================
closed         everybody                               a use fails: open
open           nobody                                  a probe that no caller waits for succeeds: half-open
half-open      everybody, and the first use decides    it succeeds: closed; it fails: open again
=============  ======================================  =====================================================

While everything is well a breaker costs one attribute look-up. Knows no technology.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from backend.adapters.breaker import BreakerMeter, BreakerState
from backend.services.ports import Metrics

log = logging.getLogger(__name__)

PROBE_AFTER_S = 0.5
PROBE_AT_MOST_EVERY_S = 4.0


class ProbedBreaker:
    """One part's breaker. Each change of its state is counted; opening and closing are a log line each.

    Args:
        part: its name in logs and metrics.
        probe: asks the part itself, within a bound of its own; raises whatever it likes.
        metrics: where changes are counted.
        probe_is_proof: whether a probe that succeeds closes it, because the probe is all that a use would be.
    """

    def __init__(
        self, part: str, probe: Callable[[], Awaitable[object]], *, metrics: Metrics, probe_is_proof: bool = False
    ) -> None:
        self._part = part
        self._probe = probe
        self._probe_is_proof = probe_is_proof
        self._probing: asyncio.Task[None] | None = None
        self._wait_s = PROBE_AFTER_S
        self.state = BreakerState.CLOSED
        self.is_open = False
        self._meter = BreakerMeter(part, metrics)

    def failed(self, cause: str) -> None:
        """Note that a use failed: nobody else tries before a probe has succeeded."""
        if self.is_open:
            return
        if self.state is BreakerState.CLOSED:
            log.warning("%s does not answer: not used until it does", self._part, extra={"cause": cause})
            self._wait_s = PROBE_AFTER_S
        self._change(BreakerState.OPEN)
        if self._probing is None or self._probing.done():
            self._probing = asyncio.create_task(self._ask_until_it_answers(), name=f"probe of {self._part}")

    def succeeded(self) -> None:
        """Note that a use succeeded."""
        if self.state is BreakerState.HALF_OPEN:
            self._close()

    def proved(self) -> None:
        """Note that somebody else has found out that it answers: it closes without waiting for a probe."""
        if self.state is not BreakerState.CLOSED:
            self._close()

    async def aclose(self) -> None:
        """Ask no more."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)

    async def _ask_until_it_answers(self) -> None:
        while True:
            # Jitter: many processes must not ask a server that has just come back in the same instant.
            await asyncio.sleep(self._wait_s * random.uniform(0.7, 1.0))
            if not self.is_open:
                return
            self._wait_s = min(2 * self._wait_s, PROBE_AT_MOST_EVERY_S)
            try:
                await self._probe()
            except Exception:  # noqa: BLE001, S112  # whatever it is, the part does not answer yet
                continue
            if self._probe_is_proof:
                self.proved()
            elif self.is_open:
                self._change(BreakerState.HALF_OPEN)
            return

    def _close(self) -> None:
        log.warning("%s answers again", self._part)
        self._change(BreakerState.CLOSED)

    def _change(self, state: BreakerState) -> None:
        self.state = state
        self.is_open = state is BreakerState.OPEN
        self._meter.changed(state, is_shut=self.is_open)
