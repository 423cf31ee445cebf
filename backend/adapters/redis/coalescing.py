"""One connection for everybody: a turn's first calls leave at once, all others of that turn of the loop in one write.

A server answers in the order in which it was asked, so the calls that wait stand in a queue, and an answer belongs to
the first of them. Whoever leaves keeps his place: his answer is read and dropped, and shifts nobody else's. When an
answer does not come in time, the connection is given up with everybody who waits on it, for the rest would have come
later still.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, cast

import hiredis
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import RedisError

from backend.adapters.redis.dialing import Dialer
from backend.adapters.redis.line import OnPrimary, Reply, Script, Value

MOST_UNSENT_BYTES = 64 * 1024 * 1024
"""What may wait for a server that does not read; beyond it calls fail at once."""

AT_ONCE = 4
"""Calls of a turn that need not wait for its end. Turns are long under load, and a write costs as much as a tenth of
what the server does for it."""

STALL_S = 0.005
"""When the loop itself was late by more, answers may lie unread: they get as long again before they count as late."""

MOVED_ON = ("READONLY", "LOADING", "MASTERDOWN", "NOREPLICAS")
"""Errors after which another server may be the right one: the next call connects anew."""


class RefusedByServer(RedisError):
    """The server answered with an error."""


class _Wire(asyncio.Protocol):
    """One connection and those who wait on it, each with the instant at which the answer is late."""

    def __init__(self) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self.now_s = loop.time
        self._replies = hiredis.Reader()
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._unsent: list[bytes] = []
        self._sent = 0
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._had_grace = False

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    def send(self, packed: bytes, late_at_s: float) -> "asyncio.Future[Any]":
        """Send a command: at once if it is among the first of this turn of the loop, else at its end."""
        transport = self._transport
        if transport is None or transport.get_write_buffer_size() > MOST_UNSENT_BYTES:
            raise ConnectionLost("the connection is gone or does not take any more")
        if not self._sent:
            self._loop.call_soon(self._end_turn)
        self._sent += 1
        if self._sent > AT_ONCE:
            self._unsent.append(packed)
        else:
            transport.write(packed)
        future = self._loop.create_future()
        self._waiting.append((future, late_at_s))
        if self._timer is None:
            self._timer = self._loop.call_at(late_at_s, self._look)
        return future

    def give_up(self, error: Exception) -> None:
        """Close the connection at once; everybody who waits gets the error."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._unsent.clear()
        while self._waiting:
            future, _ = self._waiting.popleft()
            if not future.done():
                future.set_exception(error)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        # A loop may keep small writes until its turn has ended, unless nothing may wait.
        self._transport.set_write_buffer_limits(high=0)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        self.give_up(ConnectionLost("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        replies, waiting = self._replies, self._waiting
        self._had_grace = False
        try:
            replies.feed(data)
            while (reply := replies.gets()) is not False:
                future, _ = waiting.popleft()
                if not future.done():
                    future.set_result(reply)
        except (hiredis.ProtocolError, IndexError):
            self.give_up(ConnectionLost("the server answered what nobody asked"))

    def _end_turn(self) -> None:
        self._sent = 0
        if self._transport is not None and self._unsent:
            self._transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def _look(self) -> None:
        """Look whether the first in the queue waits too long; one timer serves all."""
        self._timer = None
        if not self._waiting:
            return
        now_s, late_at_s = self._loop.time(), self._waiting[0][1]
        if now_s < late_at_s:
            self._timer = self._loop.call_at(late_at_s, self._look)
        elif now_s - late_at_s > STALL_S and not self._had_grace:
            self._had_grace = True
            self._timer = self._loop.call_later(STALL_S, self._look)
        else:
            self.give_up(TimeoutError())


class CoalescingLine:
    """Implements ``Line`` over one connection, opened at the first call and again whenever it was lost.

    Args:
        dialer: opens connections.
        timeout_s: bound on a whole call, connecting included.
    """

    def __init__(self, dialer: Dialer, timeout_s: float) -> None:
        self._dialer = dialer
        self._timeout_s = timeout_s
        self._wire: _Wire | None = None
        self._connecting: asyncio.Task[_Wire] | None = None

    async def run(self, script: Script, keys: Sequence[str | bytes], args: Sequence[Value]) -> Reply:
        """Run a script in one round trip; in two when the server has not seen it yet."""
        now_s = asyncio.get_running_loop().time if self._wire is None else self._wire.now_s
        late_at_s = now_s() + self._timeout_s
        packed = _packed(("EVALSHA", script.digest, len(keys), *keys, *args))
        reply = await self._ask(packed, late_at_s)
        if isinstance(reply, hiredis.ReplyError):
            if not str(reply).startswith("NOSCRIPT"):
                raise self._refusal(reply)
            # A new server, a failover or SCRIPT FLUSH. EVAL runs it and keeps it.
            packed = _packed(("EVAL", script.source, len(keys), *keys, *args))
            async with asyncio.timeout_at(late_at_s):
                reply = await self._ask(packed, late_at_s)
            if isinstance(reply, hiredis.ReplyError):
                raise self._refusal(reply)
        return cast("Reply", reply)

    async def read(self, keys: Sequence[str]) -> Reply:
        """Read plain values, one for each key."""
        return list(await asyncio.gather(*[self._command("GET", key) for key in keys]))

    async def write(self, key: str, value: str, ttl_s: int) -> None:
        """Set a plain value."""
        await self._command("SET", key, value, "EX", ttl_s)

    async def ping(self) -> None:
        """Return when the server answers."""
        await self._command("PING")

    async def primaries(self) -> Sequence[OnPrimary]:
        """Return a way to the one server."""
        return [self._run_without_keys]

    async def aclose(self) -> None:
        """Give the connection up."""
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
            await asyncio.wait([connecting])
        if self._wire is not None:
            self._wire.give_up(ConnectionLost("closed"))
        await self._dialer.aclose()

    async def _run_without_keys(self, script: Script, args: Sequence[Value]) -> Reply:
        return await self.run(script, [], args)

    async def _command(self, *words: Value) -> Any:
        reply = await self._ask(_packed(words), asyncio.get_running_loop().time() + self._timeout_s)
        if isinstance(reply, hiredis.ReplyError):
            raise self._refusal(reply)
        return reply

    async def _ask(self, packed: bytes, late_at_s: float) -> Any:
        wire = self._wire
        if wire is None or not wire.is_open:
            async with asyncio.timeout_at(late_at_s):
                wire = await self._connected()
        return await wire.send(packed, late_at_s)

    async def _connected(self) -> _Wire:
        """Join whoever is connecting, or begin to. Those who leave take nothing from the others."""
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())
            self._connecting.add_done_callback(self._has_connected)
        return await asyncio.shield(self._connecting)

    def _has_connected(self, task: "asyncio.Task[_Wire]") -> None:
        self._connecting = None
        if not task.cancelled() and task.exception() is None:
            self._wire = task.result()

    async def _connect(self) -> _Wire:
        async with asyncio.timeout(self._timeout_s):
            wire = await self._dialer.open(_Wire)
            try:
                await self._introduce(wire)
            except BaseException:
                wire.give_up(ConnectionLost("not connected"))
                raise
            return wire

    async def _introduce(self, wire: _Wire) -> None:
        """Sign in and choose the database, without waiting in between."""
        address, late_at_s = self._dialer.address, asyncio.get_running_loop().time() + self._timeout_s
        commands: list[tuple[str | int, ...]] = []
        if address.password is not None:
            names = () if address.username is None else (address.username,)
            commands.append(("AUTH", *names, address.password))
        if address.database:
            commands.append(("SELECT", address.database))
        for reply in await asyncio.gather(*[wire.send(_packed(each), late_at_s) for each in commands]):
            if isinstance(reply, hiredis.ReplyError):
                raise RefusedByServer(str(reply))

    def _refusal(self, reply: Exception) -> RefusedByServer:
        text = str(reply)
        if text.startswith(MOVED_ON) and self._wire is not None:
            self._wire.give_up(ConnectionLost("another server may be the right one"))
        return RefusedByServer(text)


def _packed(words: tuple[Value, ...]) -> bytes:
    # The library's types know tuples of one word only.
    return cast("bytes", hiredis.pack_command(words))  # type: ignore[arg-type]
