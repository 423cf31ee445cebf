"""W1: calls out against servers of the test's own: whom they reach, and what they are bounded by."""

import asyncio
import ssl
from ipaddress import ip_network
from pathlib import Path

import pytest

from backend.adapters.http import HttpxOutbound, OutboundLimits, SystemResolver
from backend.domain.errors import CallFailed, CallFailure, UrlNotAllowed
from backend.services.ports import OutboundAnswer
from tests.certificates import Authority
from tests.http_server import Request, answer, http_server

pytestmark = pytest.mark.anyio

LOOPBACK = (ip_network("127.0.0.1/32"),)
PATIENT = OutboundLimits(resolve_s=30.0, connect_s=30.0, read_s=30.0, total_s=60.0)


class FakeResolver:
    """Says what a test wrote down: one answer after the other, the last of them again and again."""

    def __init__(self, *answers: tuple[str, ...]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def addresses(self, host: str) -> tuple[str, ...]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class SilentResolver:
    """A name server that never answers."""

    async def addresses(self, host: str) -> tuple[str, ...]:
        await asyncio.Event().wait()
        raise AssertionError


def outbound(*answers: tuple[str, ...], **options: object) -> HttpxOutbound:
    found = FakeResolver(*(answers or (("127.0.0.1",),)))
    return HttpxOutbound(found, **{"allowed": LOOPBACK, "limits": PATIENT, **options})  # type: ignore[arg-type]


async def posted(client: HttpxOutbound, url: str, body: bytes = b"{}") -> OutboundAnswer:
    return await client.post(url, headers={"content-type": "application/json"}, body=body)


async def failure(client: HttpxOutbound, url: str) -> CallFailure:
    with pytest.raises(CallFailed) as caught:
        await posted(client, url)
    return caught.value.reason


async def test_what_is_sent_arrives_and_what_is_answered_comes_back() -> None:
    async with http_server() as server:
        server.answers = [answer(202, b"thanks", x_reason="none")]
        got = await posted(outbound(), server.url("/hook?a=b", host="hooks.example.com"), b'{"a": 1}')
        [request] = server.received
    assert (got.status, got.body, got.is_whole, got.headers["x-reason"]) == (202, b"thanks", True, "none")
    assert got.duration_ms >= 0
    assert request.line == "POST /hook?a=b HTTP/1.1"
    assert request.body == b'{"a": 1}'
    assert request.headers["host"] == f"hooks.example.com:{server.port}"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["accept-encoding"] == "identity"


# Whom it reaches


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "0x7f000001", "2130706433", "127.1", "[::1]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]"],
)
async def test_w1_the_loopback_is_refused_however_it_is_written(host: str) -> None:
    resolver = SystemResolver()
    client = HttpxOutbound(resolver, limits=PATIENT)
    async with http_server() as server:
        for scheme in ("http", "https"):
            url = server.url(host=host, scheme=scheme)
            with pytest.raises(UrlNotAllowed) as caught:
                await client.check(url)
            assert [each.pointer for each in caught.value.errors] == ["/url"]
            assert await failure(client, url) in {CallFailure.NOT_ALLOWED, CallFailure.UNRESOLVED}
        assert server.connections == 0
    resolver.close()


@pytest.mark.parametrize("address", ["169.254.169.254", "fd00:ec2::254", "10.0.0.1", "100.64.0.1", "fe80::1%eth0"])
async def test_w1_a_name_that_leads_inside_is_refused(address: str) -> None:
    with pytest.raises(UrlNotAllowed) as caught:
        await outbound((address,), allowed=()).check("https://hooks.example.com/")
    assert address not in str(caught.value.errors)


async def test_w1_one_address_inside_is_enough_to_refuse_a_name() -> None:
    with pytest.raises(UrlNotAllowed):
        await outbound(("1.1.1.1", "10.0.0.1"), allowed=()).check("https://hooks.example.com/")


async def test_w1_a_name_that_was_public_and_leads_inside_by_now_is_not_called() -> None:
    async with http_server() as server:
        client = outbound(("1.1.1.1",), ("127.0.0.1",), allowed=())
        url = server.url(host="hooks.example.com", scheme="https")
        await client.check(url)
        assert await failure(client, url) is CallFailure.NOT_ALLOWED
        assert server.connections == 0


async def test_w1_between_the_check_and_the_connection_nobody_is_asked_again() -> None:
    async with http_server() as server:
        resolver = FakeResolver(("127.0.0.1",), ("10.0.0.1",))
        client = HttpxOutbound(resolver, allowed=LOOPBACK, limits=PATIENT)
        assert (await posted(client, server.url(host="hooks.example.com"))).status == 200
    assert resolver.asked == ["hooks.example.com"]


async def test_w1_plain_http_is_for_networks_that_the_operator_named() -> None:
    with pytest.raises(UrlNotAllowed, match="does not call"):
        await outbound(("1.1.1.1",)).check("http://hooks.example.com/")
    await outbound(("1.1.1.1",)).check("https://hooks.example.com/")
    await outbound(("127.0.0.1",)).check("http://hooks.example.com/")


async def test_w1_a_redirect_is_an_answer_and_is_not_followed() -> None:
    async with http_server() as inside, http_server() as server:
        for status in (301, 302, 307, 308):
            server.answers = [answer(status, location=inside.url("/secret"))]
            assert (await posted(outbound(), server.url())).status == status
        assert inside.connections == 0


async def test_w1_no_proxy_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async with http_server() as proxy, http_server() as server:
        for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url())
        assert (await posted(outbound(), server.url(host="hooks.example.com"))).status == 200
        assert (proxy.connections, server.connections) == (0, 1)


async def test_a_name_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UrlNotAllowed) as caught:
        await outbound(()).check("https://hooks.example.com/")
    assert "cannot be found" in caught.value.errors[0].detail
    assert await failure(outbound(()), "https://hooks.example.com/") is CallFailure.UNRESOLVED


async def test_the_next_address_is_tried_when_one_does_not_answer() -> None:
    async with http_server() as server:
        client = outbound(("127.0.0.2", "127.0.0.1"), allowed=(ip_network("127.0.0.0/8"),))
        assert (await posted(client, server.url(host="hooks.example.com"))).status == 200


# TLS


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def test_w1_the_certificate_is_held_to_the_name_and_the_name_is_shown(authority: Authority) -> None:
    async with http_server(tls=authority.server("hooks.example.com")) as server:
        client = outbound(tls=authority.trusted())
        got = await posted(client, server.url(host="hooks.example.com", scheme="https"))
        assert got.status == 200
        assert server.server_names == ["hooks.example.com"]
        assert server.received[0].headers["host"] == f"hooks.example.com:{server.port}"


async def test_w1_another_names_certificate_is_refused(authority: Authority) -> None:
    async with http_server(tls=authority.server("other.example.com", "127.0.0.1")) as server:
        client = outbound(tls=authority.trusted())
        assert await failure(client, server.url(host="hooks.example.com", scheme="https")) is CallFailure.TLS
        assert server.received == []


async def test_w1_a_certificate_that_nobody_vouches_for_is_refused(authority: Authority) -> None:
    async with http_server(tls=authority.server("hooks.example.com")) as server:
        client = outbound(tls=ssl.create_default_context())
        assert await failure(client, server.url(host="hooks.example.com", scheme="https")) is CallFailure.TLS
        assert server.received == []


# Bounds


async def forever(_request: Request, _writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def drop_by_drop(_request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1\r\nx\r\n")
        await writer.drain()
        await asyncio.sleep(0)


async def endless(_request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


async def head_and_silence(_request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345")
    await writer.drain()
    await asyncio.Event().wait()


async def slow_headers(_request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"x-more: 1\r\n")
        await writer.drain()
        await asyncio.sleep(0)


async def nonsense(_request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 mail.example.com ESMTP\r\n")
    await writer.drain()
    writer.close()


@pytest.mark.parametrize("turn", [forever, head_and_silence], ids=["silent", "silent half-way"])
async def test_w1_a_slow_answer_ends_by_a_bound(turn: object) -> None:
    async with http_server() as server:
        server.answers = [turn]  # type: ignore[list-item]
        client = outbound(limits=OutboundLimits(read_s=0.05))
        assert await failure(client, server.url()) is CallFailure.TIMEOUT


async def test_w1_an_answer_that_comes_drop_by_drop_ends_by_the_bound_of_all_of_it() -> None:
    async with http_server() as server:
        server.answers = [drop_by_drop]
        client = outbound(limits=OutboundLimits(total_s=0.3, answer_bytes=10**9))
        assert await failure(client, server.url()) is CallFailure.TIMEOUT


async def test_w1_of_a_huge_answer_the_beginning_is_read() -> None:
    async with http_server() as server:
        server.answers = [endless]
        got = await posted(outbound(limits=OutboundLimits(answer_bytes=1000)), server.url())
    assert (got.status, len(got.body), got.is_whole) == (200, 1000, False)


async def test_w1_endless_headers_are_not_read_for_ever() -> None:
    async with http_server() as server:
        server.answers = [slow_headers]
        assert await failure(outbound(), server.url()) is CallFailure.PROTOCOL


async def test_w1_a_packed_answer_is_not_unpacked() -> None:
    async with http_server() as server:
        server.answers = [answer(200, b"\x1f\x8b not really", content_encoding="gzip")]
        assert (await posted(outbound(), server.url())).body == b"\x1f\x8b not really"


async def test_what_does_not_speak_http_is_a_failure() -> None:
    async with http_server() as server:
        server.answers = [nonsense]
        assert await failure(outbound(), server.url()) is CallFailure.PROTOCOL


async def test_nobody_there_is_a_failure() -> None:
    async with http_server() as server:
        url = server.url()
    assert await failure(outbound(), url) is CallFailure.UNREACHABLE


async def test_a_silent_name_server_ends_by_a_bound() -> None:
    client = HttpxOutbound(SilentResolver(), limits=OutboundLimits(resolve_s=0.01))
    assert await failure(client, "https://hooks.example.com/") is CallFailure.UNRESOLVED


async def test_two_calls_are_two_connections() -> None:
    """A connection that is open to an address must not be found again under another name."""
    async with http_server() as server:
        client = outbound()
        for host in ("one.example.com", "two.example.com"):
            await posted(client, server.url(host=host))
        assert server.connections == 2
        assert [request.headers["host"].partition(":")[0] for request in server.received] == [
            "one.example.com",
            "two.example.com",
        ]


async def test_the_systems_resolver_knows_the_loopback_and_no_invalid_name() -> None:
    resolver = SystemResolver()
    assert "127.0.0.1" in await resolver.addresses("localhost")
    assert await resolver.addresses("no-such-host.invalid") == ()
    assert await resolver.addresses("x" * 300) == ()
    resolver.close()
