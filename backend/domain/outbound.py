"""Whom the service may call when somebody else names the address: webhooks, billers, remote engines.

An address that means something only inside a network (loopback, private, link-local and with it the metadata services
of clouds) is refused, unless the operator allows its network. IPv6 that carries an IPv4 address is judged by what it
carries. The networks are IANA's special-purpose registries (RFC 6890 and its successors); they stand here instead of
coming from the interpreter, whose own list differs from version to version.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

URL_MAX_CHARS = 2000

_SPECIAL_V4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",
        "168.63.129.16/32",  # the host of Azure's machines, in public space
        "169.254.0.0/16",  # link-local; most metadata services
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",
    )
)
# Of IPv6 only global unicast is public, and within it not these.
_GLOBAL_V6 = IPv6Network("2000::/3")
_SPECIAL_V6 = tuple(
    IPv6Network(text)
    for text in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")  # 2002: carries IPv4
)
_NAT64 = IPv6Network("64:ff9b::/96")


def may_call(address: Address, allowed: tuple[Network, ...] = ()) -> bool:
    """Whether a connection to an address may be opened; ``allowed`` are networks that the operator lets through."""
    address = carried_by(address)
    return is_public(address) or is_in(address, allowed)


def is_in(address: Address, networks: tuple[Network, ...]) -> bool:
    """Whether an address, or the one that it carries, belongs to one of some networks."""
    address = carried_by(address)
    return any(address.version == network.version and address in network for network in networks)


def is_public(address: Address) -> bool:
    """Whether an address means the same host from everywhere."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _SPECIAL_V4)
    return address in _GLOBAL_V6 and not any(address in network for network in _SPECIAL_V6)


def carried_by(address: Address) -> Address:
    """Return the IPv4 address that a mapped or NAT64 address leads to; any other address as it is."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def address_from(text: str) -> Address:
    """Read an address as resolvers write it; the zone of a link-local one (``fe80::1%eth0``) is left out.

    Raises:
        ValueError: it is none.
    """
    return ip_address(text.partition("%")[0])


def problem_of_url(url: str) -> str | None:
    """Return what is wrong with the form of a URL that the service is to call; ``None`` when nothing is."""
    if len(url) > URL_MAX_CHARS or any(not "!" <= char <= "~" for char in url):
        return f"must be a URL of at most {URL_MAX_CHARS} visible ASCII characters"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is not a URL"
    problems = {
        "must begin with https://": parts.scheme not in {"https", "http"},
        "names no host": not parts.hostname or "\\" in url,
        "must not hold a user name or password": "@" in parts.netloc,
        "must not hold a fragment": "#" in url,
        "names no port that can be called": port == 0,
    }
    return next((problem for problem, is_there in problems.items() if is_there), None)


def origin_of(url: str) -> str:
    """Return the scheme, host and port of a URL: all of it that may be logged, for the rest may be a secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
