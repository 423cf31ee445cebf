"""Where Redis is: the forms that ``FORECOURT_REDIS_URL`` may have.

=========================================================  ==========================================================
``redis://[user:password@]host[:port][/database]``         one server
``rediss://…``                                             the same over TLS
``unix://[user:password@]/path[?db=database]``             one server on this machine
``redis+sentinel://…@host[:port],…/service[/database]``    whichever server Sentinel says is the primary
``redis+cluster://…@host[:port],…``                        Redis Cluster, found through any of its nodes
``rediss+sentinel://…``, ``rediss+cluster://…``            the same over TLS
=========================================================  ==========================================================

Special characters in user and password are percent-encoded. After ``?`` may stand, over TLS, ``ssl_ca_certs``,
``ssl_certfile``, ``ssl_keyfile`` and ``ssl_cert_reqs``, and for Sentinel ``sentinel_username`` and
``sentinel_password``.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import parse_qsl, unquote, urlsplit

REDIS_PORT = 6379
SENTINEL_PORT = 26379
MOST_PORT = 65535

_TLS_OPTIONS = {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs"}
_SENTINEL_OPTIONS = {"sentinel_username", "sentinel_password"}


class UnusableRedisUrl(ValueError):
    """The URL has none of the forms; the message repeats nothing of it."""


class Kind(StrEnum):
    """What stands at the address."""

    SERVER = "redis"
    SOCKET = "unix"
    SENTINEL = "redis+sentinel"
    CLUSTER = "redis+cluster"


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisAddress:
    """A URL taken apart. ``hosts`` is empty for a socket, whose ``path`` is set instead."""

    kind: Kind
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    service: str = ""
    database: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    is_tls: bool = False
    options: dict[str, str] = field(default_factory=dict, repr=False)


def parse_address(url: str) -> RedisAddress:
    """Take a URL apart.

    Raises:
        UnusableRedisUrl: it has none of the forms.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise UnusableRedisUrl("is no URL") from None
    is_tls = parts.scheme.startswith("rediss")
    try:
        kind = Kind(parts.scheme.replace("rediss", "redis", 1))
    except ValueError:
        raise UnusableRedisUrl(
            "must begin with redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://"
        ) from None
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    options = _options(parts.query, kind, is_tls=is_tls)
    database = options.pop("db", "")
    path = unquote(parts.path)
    service = ""
    if kind is Kind.SOCKET:
        if hosts or not path:
            raise UnusableRedisUrl("a unix:// address is the path of a socket: unix:///path")
    else:
        service, path_database = _path(path, kind)
        database = database or path_database
    return RedisAddress(
        kind=kind,
        hosts=() if kind is Kind.SOCKET else _hosts(hosts, kind),
        path=path if kind is Kind.SOCKET else "",
        service=service,
        database=_database(database, kind),
        username=unquote(username) or None,
        password=unquote(password) or None,
        is_tls=is_tls,
        options=options,
    )


def _options(query: str, kind: Kind, *, is_tls: bool) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    known = {"db"} | (_TLS_OPTIONS if is_tls else set()) | (_SENTINEL_OPTIONS if kind is Kind.SENTINEL else set())
    if not options.keys() <= known:
        raise UnusableRedisUrl("has an option after ? that is not known for this kind of address")
    if options.get("ssl_cert_reqs", "required") not in {"required", "optional", "none"}:
        raise UnusableRedisUrl("ssl_cert_reqs is required, optional or none")
    return options


def _path(path: str, kind: Kind) -> tuple[str, str]:
    """Return the service and the database that stand in a path."""
    first, _, rest = path.strip("/").partition("/")
    if kind is not Kind.SENTINEL:
        if rest:
            raise UnusableRedisUrl("has more than a database number after the host")
        return "", first
    if not first:
        raise UnusableRedisUrl("names no service: redis+sentinel://host:port/service")
    return first, rest


def _hosts(text: str, kind: Kind) -> tuple[tuple[str, int], ...]:
    found = tuple([_host(part, kind) for part in text.split(",")])
    if kind is Kind.SERVER and len(found) > 1:
        raise UnusableRedisUrl("names several hosts: that is redis+sentinel:// or redis+cluster://")
    return found


def _host(text: str, kind: Kind) -> tuple[str, int]:
    usual = SENTINEL_PORT if kind is Kind.SENTINEL else REDIS_PORT
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise UnusableRedisUrl(f"a port is a number up to {MOST_PORT}") from None
    if not host:
        raise UnusableRedisUrl("names no host")
    return host, usual if port is None else port


def _database(text: str, kind: Kind) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()):
        raise UnusableRedisUrl("a database is a number")
    if kind is Kind.CLUSTER and int(text):
        raise UnusableRedisUrl("Redis Cluster has one database, 0")
    return int(text)
