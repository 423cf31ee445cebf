"""Runs jobs in their rhythm, with jitter, so that many copies do not all ask the stores in the same instant."""

import asyncio
import logging
import random
import time
from collections.abc import Sequence

from backend.domain.errors import ForecourtError
from backend.services.ports import Metrics
from backend.worker.jobs import Job

log = logging.getLogger(__name__)

FIRST_WITHIN_S = 1.0
STOPS_WITHIN_S = 10.0


class JobRunner:
    """Runs each job soon after the start and then again and again. One that fails is tried again at its next turn.

    Args:
        jobs: each of them safe to run in many copies.
        metrics: where it is shown when each job last succeeded, and how often it failed.
    """

    def __init__(self, jobs: Sequence[Job], *, metrics: Metrics) -> None:
        self._jobs = tuple(jobs)
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._failing: set[str] = set()
        self._failures = {
            job.name: metrics.counter("forecourt_job_failures_total", "Runs of a job that failed.", job=job.name)
            for job in self._jobs
        }
        self._successes = {
            job.name: metrics.gauge(
                "forecourt_job_last_success_timestamp_seconds", "When a job last succeeded.", job=job.name
            )
            for job in self._jobs
        }

    def start(self) -> None:
        """Begin on the running loop."""
        self._tasks = [asyncio.create_task(self._repeat(job), name=f"job {job.name}") for job in self._jobs]

    async def aclose(self) -> None:
        """Start no other run, and let those that are under way finish, within a bound."""
        self._stopping.set()
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=STOPS_WITHIN_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def run_once(self) -> tuple[str, ...]:
        """Run every job once, one after the other; return the names of those that failed."""
        return tuple([job.name for job in self._jobs if not await self._run(job)])

    async def _repeat(self, job: Job) -> None:
        wait_s = random.uniform(0, min(FIRST_WITHIN_S, job.every_s))
        while not await self._is_stopped_within(wait_s):
            await self._run(job)
            wait_s = job.every_s * random.uniform(0.9, 1.1)

    async def _is_stopped_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True

    async def _run(self, job: Job) -> bool:
        try:
            count = await job.work()
        except Exception as error:  # noqa: BLE001  # whatever it is: the other jobs, and the next run, go on
            cause = error.code if isinstance(error, ForecourtError) else type(error).__name__
            # Once for a job that goes on failing: some run every second.
            level = logging.DEBUG if job.name in self._failing else logging.WARNING
            log.log(level, "job failed: %s", job.name, extra={"cause": cause})
            self._failing.add(job.name)
            self._failures[job.name].add()
            return False
        self._failing.discard(job.name)
        log.log(logging.INFO if count else logging.DEBUG, "job done: %s", job.name, extra={"count": count})
        self._successes[job.name].set(time.time())
        return True
