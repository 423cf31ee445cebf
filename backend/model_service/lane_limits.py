"""How much may wait in the lanes, and for how long."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneLimits:
    """Bounds of the queues, in rows and seconds.

    ``max_share_rows`` is one share's waiting rows in one lane; ``max_waiting_rows`` is everybody's in all lanes.
    ``quantum_rows`` is what a share gives in one turn. ``max_wait_s`` is the longest estimated wait that is still
    accepted. ``drain_s`` is how long a shutdown waits for queued rows.
    """

    max_batch_rows: int = 256
    quantum_rows: int = 32
    max_share_rows: int = 4_000
    max_waiting_rows: int = 40_000
    max_wait_s: float = 30.0
    stuck_after_s: float = 30.0
    drain_s: float = 10.0
