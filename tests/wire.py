"""A TCP connection to a server that a test can disturb."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Wire:
    """Everything stays open; what is sent gets through at once, late, or not at all.

    ``delay_s`` is added on the way there.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._gets_through = asyncio.Event()
        self._gets_through.set()
        self._running: set[asyncio.Task[None]] = set()
        self.delay_s = 0.0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[int]:
        """Yield the port to connect to."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    def go_silent(self) -> None:
        self._gets_through.clear()

    def go_on(self) -> None:
        self._gets_through.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        for source, sink, is_outward in ((reader, there_writer, True), (there_reader, writer, False)):
            task = asyncio.create_task(self._carry(source, sink, is_outward=is_outward))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, is_outward: bool) -> None:
        try:
            while data := await source.read(65536):
                await self._gets_through.wait()
                if is_outward and self.delay_s:
                    await asyncio.sleep(self.delay_s)
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()
