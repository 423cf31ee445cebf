"""The audit log on the wire."""

from typing import Any

from pydantic import Field

from backend.api.schemas.common import Instant, Out
from backend.domain.audit import AuditRecord, ChainReport


class ActorOut(Out):
    """Who acted, and from where."""

    kind: str
    id: str
    address: str | None
    request_id: str | None


class AuditRecordOut(Out):
    """One mutation."""

    id: str
    sequence: int
    at: Instant
    actor: ActorOut
    action: str
    target_id: str
    before: dict[str, Any]
    after: dict[str, Any]
    previous_hash: str = Field(description="SHA-256 of the record before, in hexadecimal.")
    hash: str

    @classmethod
    def of(cls, record: AuditRecord) -> "AuditRecordOut":
        """Return a record's wire form."""
        entry = record.entry
        return cls(
            id=record.id,
            sequence=record.sequence,
            at=record.at,
            actor=ActorOut(
                kind=entry.actor.kind,
                id=entry.actor.id,
                address=entry.actor.address,
                request_id=entry.actor.request_id,
            ),
            action=entry.action,
            target_id=entry.target_id,
            before=dict(entry.before),
            after=dict(entry.after),
            previous_hash=record.previous_hash.hex(),
            hash=record.hash.hex(),
        )


class ChainOut(Out):
    """The outcome of walking the chain."""

    valid: bool
    records: int = Field(description="How many records hold, from the first one on.")
    head: str = Field(description="Hash of the last one that holds: keep it elsewhere to notice a cut-off end.")
    broken_at: int | None = Field(description="Sequence of the first record that does not hold.")

    @classmethod
    def of(cls, report: ChainReport) -> "ChainOut":
        """Return a report's wire form."""
        return cls(
            valid=report.broken_at is None,
            records=report.records,
            head=report.head.hex(),
            broken_at=report.broken_at,
        )
