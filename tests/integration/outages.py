"""Ways in which a real Redis can be away, each with its end."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.redis_client import connect
from tests.server_process import Server
from tests.wire import Wire

LATENCY_S = 2.0


@dataclass(frozen=True, slots=True)
class Patient:
    """A Redis server, reached over a wire that can be disturbed."""

    server: Server
    wire: Wire
    url: str

    async def configure(self, *command: Any) -> None:
        """Tell the server something, past the wire."""
        async with aclosing(connect(self.server.url, timeout_s=10.0)) as client:
            await client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py has no type for it


@asynccontextmanager
async def patient(server: Server) -> AsyncIterator[Patient]:
    """Put a wire before a server."""
    host, port = server.url.removeprefix("redis://").split(":")
    wire = Wire(host, int(port))
    async with wire.open() as open_port:
        yield Patient(server, wire, f"redis://127.0.0.1:{open_port}")


@dataclass(frozen=True, slots=True)
class Fault:
    """How it begins and how it ends."""

    strike: Callable[[Patient], Awaitable[None]]
    heal: Callable[[Patient], Awaitable[None]]


async def _kill(patient: Patient) -> None:
    patient.server.kill()


async def _start(patient: Patient) -> None:
    patient.server.start()


async def _pause(patient: Patient) -> None:
    patient.server.pause()


async def _resume(patient: Patient) -> None:
    patient.server.resume()


async def _slow(patient: Patient) -> None:
    patient.wire.delay_s = LATENCY_S


async def _fast(patient: Patient) -> None:
    patient.wire.delay_s = 0.0


async def _silent(patient: Patient) -> None:
    patient.wire.go_silent()


async def _heard(patient: Patient) -> None:
    patient.wire.go_on()


async def _full(patient: Patient) -> None:
    await patient.configure("CONFIG", "SET", "maxmemory", "1")


async def _roomy(patient: Patient) -> None:
    await patient.configure("CONFIG", "SET", "maxmemory", "0")


async def _demote(patient: Patient) -> None:
    await patient.configure("REPLICAOF", "127.0.0.1", "1")


async def _promote(patient: Patient) -> None:
    await patient.configure("REPLICAOF", "NO", "ONE")


FAULTS = {
    "killed": Fault(_kill, _start),
    "paused": Fault(_pause, _resume),
    "two-seconds-late": Fault(_slow, _fast),
    "silent": Fault(_silent, _heard),
    "out-of-memory": Fault(_full, _roomy),
    "demoted": Fault(_demote, _promote),
}
