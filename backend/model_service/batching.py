"""Running a batch so that only guilty rows fail."""

import logging
from collections.abc import Sequence
from time import monotonic

from backend.model_service.calls import Work
from backend.model_service.errors import WrongAnswer
from backend.model_service.lane import Lane, Outcome
from backend.model_service.manifest import Row

logger = logging.getLogger(__name__)


def count_batch(lane: Lane, batch: Sequence[Work]) -> None:
    """Count a batch that is about to run, and how long each of its calls has waited for it."""
    meter = lane.meter
    if meter is None:
        return
    meter.batch_rows.observe(len(batch))
    now_s = monotonic()
    for work in batch:
        for call, _ in work.waiters:
            if not call.taken:
                call.taken = True
                meter.queue_wait.observe(now_s - call.queued_at_s)


def run_batch(lane: Lane, batch: Sequence[Work]) -> list[Outcome]:
    """Compute a batch. A batch that fails is halved until the rows that fail alone are found.

    Returns:
        Per row: its answer, what it raised, or None where nobody waits for it any more.
    """
    outcomes: list[Outcome] = [None] * len(batch)
    waiting = [list(range(len(batch)))]
    while waiting:
        # Once a row of a call has failed, its other rows are no longer wanted.
        places = [place for place in waiting.pop() if batch[place].wanted()]
        if not places:
            continue
        try:
            answers = _execute(lane, [batch[place].row for place in places])
        except (Exception, SystemExit) as error:  # noqa: BLE001 - foreign code; the others go on
            if len(places) == 1:
                _fail(lane, batch[places[0]], error)
                outcomes[places[0]] = error
            else:
                middle = len(places) // 2
                waiting += [places[middle:], places[:middle]]
        else:
            for place, answer in zip(places, answers, strict=True):
                outcomes[place] = answer
    return outcomes


def _execute(lane: Lane, rows: Sequence[Row]) -> Sequence[bytes]:
    answers = lane.execute(rows)
    if len(answers) != len(rows):
        raise WrongAnswer("The runner did not give one answer per row.")
    return answers


def _fail(lane: Lane, work: Work, error: BaseException) -> None:
    # Only the class: the text of what a model raises often quotes the row.
    logger.warning("model %s failed on a row: %s", lane.key.model, type(error).__name__)
    for call, _ in work.waiters:
        call.doomed = True
