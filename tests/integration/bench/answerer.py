"""Something for load generators to ask: it answers whatever it is asked."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Answerer:
    """A server that answers everything, and keeps what it was asked."""

    def __init__(self, status: str) -> None:
        self._status = status
        self.bodies: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                found = re.search(rb"Content-Length: (\d+)", head)
                assert found
                self.bodies.append(await reader.readexactly(int(found[1])))
                # In two pieces, as a network may cut it.
                writer.write(f"HTTP/1.1 {self._status}\r\ncontent-length: 4\r\n\r\nth".encode())
                await writer.drain()
                writer.write(b"is")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


@asynccontextmanager
async def answering(status: str) -> AsyncIterator[tuple[Answerer, int]]:
    answerer = Answerer(status)
    server = await asyncio.start_server(answerer.serve, "127.0.0.1", 0)
    async with server:
        yield answerer, server.sockets[0].getsockname()[1]
