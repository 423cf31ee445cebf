"""Calls out with httpx, so that nobody who names a URL reaches more than the operator would have them reach.

A name is looked up here, every address behind it is judged, and the connection goes to an address that was judged: a
second look-up, which could say something else (DNS rebinding), never happens. The request still carries the name, in
``Host`` and in TLS, whose certificate has to be the name's. Connections are not kept: one that is open to an address
would be found again by another name. No redirect is followed, no proxy is taken from the environment, nothing is
unpacked, and each phase and the whole have a bound.
"""

import asyncio
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from backend.domain.errors import CallFailed, CallFailure, UrlNotAllowed
from backend.domain.outbound import Address, Network, address_from, is_in, may_call, problem_of_url
from backend.services.ports import OutboundAnswer, Resolver

_MOST_ADDRESSES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundLimits:
    """Bounds of one call: each phase, all of it together, and how much of an answer is read."""

    resolve_s: float = 3.0
    connect_s: float = 3.0
    read_s: float = 10.0
    total_s: float = 15.0
    answer_bytes: int = 16 * 1024


class _RefusedError(Exception):
    """A URL that is not called: at which step that was found out, and what may be said of it."""

    def __init__(self, failure: CallFailure, detail: str) -> None:
        super().__init__(detail)
        self.failure = failure
        self.detail = detail


class HttpxOutbound:
    """Calls out. ``allowed`` are networks that the operator lets through, over plain HTTP as well."""

    def __init__(
        self,
        resolver: Resolver,
        *,
        allowed: tuple[Network, ...] = (),
        limits: OutboundLimits | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._resolver = resolver
        self._allowed = allowed
        self._limits = limits or OutboundLimits()
        self._tls = tls or httpx.create_ssl_context()
        self._timeout = httpx.Timeout(self._limits.read_s, connect=self._limits.connect_s).as_dict()

    async def check(self, url: str) -> None:
        """Return when the URL could be called now.

        Raises:
            UrlNotAllowed: its form, its scheme or an address behind its name is refused, or there is no such name.
        """
        try:
            await self._judged(url)
        except _RefusedError as refused:
            raise UrlNotAllowed.because(refused.detail) from refused

    async def post(self, url: str, *, headers: Mapping[str, str], body: bytes) -> OutboundAnswer:
        """Send a body and return the answer, whatever its status.

        Raises:
            CallFailed: no answer came, or none was allowed to be asked for.
        """
        started_s = time.monotonic()
        try:
            async with asyncio.timeout(self._limits.total_s):
                target, addresses = await self._judged(url)
                return await self._post(target, addresses, headers, body)
        except (_RefusedError, TimeoutError, httpx.HTTPError, httpx.InvalidURL) as error:
            raise CallFailed(reason=_reason_of(error), duration_ms=_ms_since(started_s)) from error

    async def _judged(self, url: str) -> tuple[httpx.URL, tuple[Address, ...]]:
        """Return a URL that may be called, and the addresses for which that was found."""
        problem = problem_of_url(url)
        if problem is not None:
            raise _RefusedError(CallFailure.NOT_ALLOWED, problem)
        try:
            target = httpx.URL(url)
        except httpx.InvalidURL:
            raise _RefusedError(CallFailure.NOT_ALLOWED, "is not a URL") from None
        addresses = await self._resolved(target.host)
        if not addresses:
            raise _RefusedError(CallFailure.UNRESOLVED, "names a host that cannot be found")
        # One address that is not allowed is enough: which of several is taken is not ours to foresee.
        if not all(may_call(address, self._allowed) for address in addresses):
            raise _RefusedError(CallFailure.NOT_ALLOWED, "leads to an address that this service does not call")
        if target.scheme != "https" and not all(is_in(address, self._allowed) for address in addresses):
            raise _RefusedError(CallFailure.NOT_ALLOWED, "must begin with https://")
        return target, addresses

    async def _resolved(self, host: str) -> tuple[Address, ...]:
        try:
            return (address_from(host),)
        except ValueError:
            pass
        try:
            async with asyncio.timeout(self._limits.resolve_s):
                return tuple(address_from(text) for text in await self._resolver.addresses(host))
        except (TimeoutError, ValueError):
            return ()

    async def _post(
        self, target: httpx.URL, addresses: tuple[Address, ...], headers: Mapping[str, str], body: bytes
    ) -> OutboundAnswer:
        """Try the addresses in order until one can be connected to."""
        *others, last = addresses[:_MOST_ADDRESSES]
        for address in others:
            try:
                return await self._post_to(target, address, headers, body)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                if _is_about_tls(error):
                    raise
        return await self._post_to(target, last, headers, body)

    async def _post_to(
        self, target: httpx.URL, address: Address, headers: Mapping[str, str], body: bytes
    ) -> OutboundAnswer:
        started_s = time.monotonic()
        sent = {
            "Host": target.netloc.decode("ascii"),
            "User-Agent": "Forecourt",
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "Connection": "close",
            **headers,
        }
        request = httpx.Request(
            "POST",
            target.copy_with(host=str(address)),
            headers=sent,
            content=body,
            extensions={"timeout": self._timeout, "sni_hostname": target.raw_host.decode("ascii")},
        )
        # Without a client around it: that one would log the whole URL, whose path may be a secret.
        async with httpx.AsyncHTTPTransport(verify=self._tls, trust_env=False) as transport:
            response = await transport.handle_async_request(request)
            try:
                content, is_whole = await self._beginning(response)
            finally:
                await response.aclose()
        return OutboundAnswer(
            status=response.status_code,
            headers={name.lower(): value for name, value in response.headers.items()},
            body=content,
            is_whole=is_whole,
            duration_ms=_ms_since(started_s),
        )

    async def _beginning(self, response: httpx.Response) -> tuple[bytes, bool]:
        """Return an answer's body as far as it is read, not unpacked, and whether that is all of it."""
        content = b""
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) > self._limits.answer_bytes:
                return content[: self._limits.answer_bytes], False
        return content, True


def _ms_since(started_s: float) -> int:
    return round((time.monotonic() - started_s) * 1000)


def _reason_of(error: Exception) -> CallFailure:
    match error:
        case _RefusedError():
            return error.failure
        case TimeoutError() | httpx.TimeoutException():
            return CallFailure.TIMEOUT
        case httpx.NetworkError():
            return CallFailure.TLS if _is_about_tls(error) else CallFailure.UNREACHABLE
        case _:
            return CallFailure.PROTOCOL


def _is_about_tls(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False
