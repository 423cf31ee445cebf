"""W1: which addresses and which URLs may be called."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis.strategies import ip_addresses

from backend.domain.outbound import address_from, carried_by, is_public, may_call, origin_of, problem_of_url

REFUSED = (
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "169.254.170.2",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
)
CALLED = (
    "1.1.1.1",
    "8.8.8.8",
    "172.15.0.1",
    "172.32.0.1",
    "100.128.0.1",
    "2606:4700::1111",
    "64:ff9b::101:101",
    "::ffff:1.1.1.1",
)


@pytest.mark.parametrize("address", REFUSED)
def test_w1_an_address_inside_some_network_is_refused(address: str) -> None:
    assert not may_call(address_from(address))


@pytest.mark.parametrize("address", CALLED)
def test_w1_a_public_address_is_called(address: str) -> None:
    assert may_call(address_from(address))


@pytest.mark.parametrize("address", ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::a01:203", "fd00::1"])
def test_w1_the_operator_may_let_a_network_through(address: str) -> None:
    allowed = (ip_network("10.0.0.0/8"), ip_network("fd00::/64"))
    assert may_call(address_from(address), allowed)
    assert not may_call(address_from("127.0.0.1"), allowed)
    assert not may_call(address_from("fd00:ec2::254"), allowed)


@given(ip_addresses())
def test_w1_what_is_public_is_global_and_no_group_of_hosts(address: object) -> None:
    judged = carried_by(ip_address(str(address)))
    if is_public(judged):
        assert judged.is_global
        assert not any((judged.is_multicast, judged.is_private, judged.is_loopback, judged.is_link_local))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "//example.com/x",
        "ftp://example.com",
        "file:///etc/passwd",
        "gopher://example.com",
        "https://",
        "https:///path",
        "https://user@example.com",
        "https://user:secret@example.com",
        "https://example.com/#top",
        "https://example.com#",
        "https://example.com:0/",
        "https://example.com:65536/",
        "https://example.com:port/",
        "https://[::1/",
        "https://exa mple.com",
        "https://example.com/\r\nX: y",
        "https://example.com\\@other.com",
        "https://ex\u00e4mple.com",
        "https://example.com/" + "x" * 2000,
    ],
)
def test_w1_a_url_of_another_form_is_refused(url: str) -> None:
    assert problem_of_url(url) is not None


@pytest.mark.parametrize(
    "url", ["https://example.com", "https://example.com:8443/a/b?c=d", "https://[2606:4700::1111]/x"]
)
def test_a_plain_url_is_taken(url: str) -> None:
    assert problem_of_url(url) is None


def test_only_the_origin_of_a_url_is_told() -> None:
    assert origin_of("https://hooks.example.com:8443/services/T0KEN?sig=abc") == "https://hooks.example.com:8443"
