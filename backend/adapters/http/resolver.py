"""The system's resolver. It blocks, so it runs on threads of its own: a silent name server holds up nobody else."""

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor

_AT_ONCE = 4


class SystemResolver:
    """Asks ``getaddrinfo``: the hosts file, the name servers, whatever the system is set up with."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="resolver")

    async def addresses(self, host: str) -> tuple[str, ...]:
        """Return every address of a name, in the system's order of preference; none when there is no such name."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._threads, _look_up, host)
        except (OSError, UnicodeError):
            return ()
        return tuple(dict.fromkeys(found))

    def close(self) -> None:
        """Let go of the threads; a question that hangs ends by the system's own bound."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str) -> list[str]:
    return [str(sockaddr[0]) for *_, sockaddr in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
