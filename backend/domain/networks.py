"""Networks in CIDR notation, and addresses in them."""

import ipaddress


def is_network(text: str) -> bool:
    """Whether a text is a network in CIDR notation, without bits set below its prefix."""
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def address_in(address: str | None, cidrs: tuple[str, ...]) -> bool:
    """Whether an address lies in one of the networks; an IPv4 address mapped into IPv6 counts as itself."""
    if address is None:
        return False
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return any(ip in ipaddress.ip_network(cidr) for cidr in cidrs)
