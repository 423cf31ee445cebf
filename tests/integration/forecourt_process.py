"""``forecourt`` as a process of its own: started, watched, told to end, killed."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from tests.databases import sqlite_url
from tests.server_process import LEASH
from tests.warm_process import WarmProcess, cold_process, run_warm

T = TypeVar("T")

PROJECT = Path(__file__).resolve().parents[2]
START_WITHIN_S = 90.0
END_WITHIN_S = 60.0
POLL_S = 0.02

_READY = re.compile(r"ready at\s+(http://\S+)")


def environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment without settings, and with those given; names without the prefix."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FORECOURT_")}
    return kept | {f"FORECOURT_{name}": value for name, value in (changes or {}).items()}


def forecourt(*arguments: str, settings: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    """Run a command that ends by itself."""
    return run_warm("backend.cli", *arguments, env=environment(settings), within_s=END_WITHIN_S)


class ServerProcess:
    """One ``forecourt demo``, in a process group of its own, on a port that it chose.

    Args:
        folder: where the demo keeps its state; a start on the same folder goes on with it.
        options: of the command line.
        settings: environment variables without their prefix.
        temp: the folder for temporary files.
        output: the folder for what it prints.
        is_cold: whether it imports everything itself, see ``tests.warm_process``.
    """

    def __init__(
        self,
        folder: Path,
        *options: str,
        settings: Mapping[str, str],
        temp: Path,
        output: Path,
        is_cold: bool = False,
    ) -> None:
        self.folder = folder
        self._outputs = output / "stdout", output / "stderr"
        with self._outputs[0].open("wb") as stdout, self._outputs[1].open("wb") as stderr:
            start = cold_process if is_cold else WarmProcess
            self._process = start(
                "backend.cli",
                *("demo", "--folder", str(folder), "--port", "0", *options),
                env=environment(settings) | {"TMPDIR": str(temp)},
                stdout=stdout,
                stderr=stderr,
            )
        self._leash = subprocess.Popen(
            ("sh", "-c", LEASH, "leash", str(self._process.pid), str(temp)),
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def stdout(self) -> str:
        return self._outputs[0].read_text()

    @property
    def stderr(self) -> str:
        return self._outputs[1].read_text()

    @property
    def said(self) -> list[str]:
        """What it printed on its way."""
        return [line.removeprefix("forecourt: ") for line in self.stdout.splitlines() if line.startswith("forecourt: ")]

    @property
    def logged(self) -> list[dict[str, Any]]:
        """The log so far; a line that is being written does not count yet."""
        lines = self.stderr.splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]

    @property
    def base_url(self) -> str:
        """Where it serves, as soon as it does."""
        return self._await_address()

    @property
    def credentials(self) -> dict[str, Any]:
        """The content of ``demo.json``, as soon as it serves."""
        self._await_address()
        content: dict[str, Any] = json.loads((self.folder / "demo.json").read_text())
        return content

    @property
    def worker_pids(self) -> set[int]:
        """The processes that said that they serve."""
        found = (re.search(r"Started server process \[(\d+)\]", line["message"]) for line in self.logged)
        return {int(match[1]) for match in found if match}

    def await_line(self, name: str, value: object) -> dict[str, Any]:
        """Return the first log line with this value, once it is there."""
        return self._await(
            lambda: next((line for line in self.logged if line.get(name) == value), None), f"log {value}", END_WITHIN_S
        )

    def ask_to_end(self, number: signal.Signals = signal.SIGTERM) -> None:
        self._process.send_signal(number)

    def exit_code(self) -> int:
        """Wait for the end."""
        return self._process.wait(END_WITHIN_S)

    def terminate(self) -> int:
        """Ask it to end, and wait until it has."""
        self.ask_to_end()
        return self.exit_code()

    def has_children(self) -> bool:
        """Whether any process of its group is left, once it has ended itself."""
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def sweep(self) -> None:
        """Leave nothing behind, whatever has happened."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(END_WITHIN_S)
        self._leash.kill()
        self._leash.communicate()

    def _await_address(self) -> str:
        return str(self._await(lambda: _READY.search(self.stdout), "serve", START_WITHIN_S)[1])

    def _await(self, look: Callable[[], T | None], what: str, within_s: float) -> T:
        deadline_s = time.monotonic() + within_s
        while (found := look()) is None:
            with suppress(subprocess.TimeoutExpired):
                code = self._process.wait(POLL_S)
                found = look()
                if found is None:
                    raise ChildProcessError(f"ended with {code} before it could {what}: {self.stdout}{self.stderr}")
                break
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"did not {what} in time: {self.stdout}{self.stderr}")
        return found


class Site:
    """What outlives a server: its folder, and how it is configured. Servers started here go on with the same state."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        self.root = folder
        self.folder = folder / "state"
        self.temp = folder / "temp"
        self.settings = dict(settings)
        self._servers: list[ServerProcess] = []
        self.temp.mkdir()

    @property
    def database_url(self) -> str:
        return self.settings.get("DATABASE_URL") or sqlite_url(self.folder)

    def start(self, *options: str, is_cold: bool = False, **settings: str) -> ServerProcess:
        """Start a server; whoever needs it to serve asks it for its address."""
        output = self.root / f"output-{len(self._servers)}"
        output.mkdir()
        server = ServerProcess(
            self.folder,
            *options,
            settings=self.settings | settings,
            temp=self.temp,
            output=output,
            is_cold=is_cold,
        )
        self._servers.append(server)
        return server

    def close(self) -> None:
        for server in self._servers:
            server.sweep()


@contextmanager
def new_site(folder: Path, **settings: str) -> Iterator[Site]:
    """Yield a place for servers; all that were started there are gone afterwards."""
    site = Site(folder, settings)
    try:
        yield site
    finally:
        site.close()
