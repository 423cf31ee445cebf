"""A running application on a port of its own, within the test's own loop: for what only a socket shows."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI


@asynccontextmanager
async def listening(app: FastAPI, **options: Any) -> AsyncIterator[uvicorn.Server]:
    """Serve a running application, with uvicorn's own options, until the end."""
    config = uvicorn.Config(app, port=0, lifespan="off", log_config=None, access_log=False, **options)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        assert not serving.done()
        await asyncio.sleep(0)
    try:
        yield server
    finally:
        server.should_exit = True
        await serving


def address_of(server: uvicorn.Server) -> tuple[str, int]:
    """Return the host and the port it listens on."""
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    return str(host), int(port)


def base_url_of(server: uvicorn.Server) -> str:
    """Return the same as a URL."""
    host, port = address_of(server)
    return f"http://{host}:{port}"
