"""Work beside the requests: in every server, or in processes of its own.

jobs.py      what there is to do, and how often
runner.py    does it again and again, and tells how it went
"""

from backend.worker.jobs import (
    Job,
    cleanups,
    closing,
    idempotency_cleanup,
    outgoing_jobs,
    quota_reconciliation,
    signing_key_cleanup,
    spill_drain,
    usage_months,
    usage_push,
    usage_retention,
    usage_rollup,
)
from backend.worker.runner import JobRunner

__all__ = [
    "Job",
    "JobRunner",
    "cleanups",
    "closing",
    "idempotency_cleanup",
    "outgoing_jobs",
    "quota_reconciliation",
    "signing_key_cleanup",
    "spill_drain",
    "usage_months",
    "usage_push",
    "usage_retention",
    "usage_rollup",
]
