"""The server's protocol for whole predictions, over real sockets: however one arrives, it gets its answer."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, cast

import pytest
import uvicorn

from backend.api import deps
from backend.cli.prediction_protocol import PredictionProtocol
from backend.domain.callers import PredictCaller
from backend.domain.predictions import PredictCommand
from backend.services.predictions import PredictionService
from tests.api.conftest import IRIS, TenantUnderTest, World
from tests.api.listening import address_of, listening
from tests.fakes import FakeClock

pytestmark = pytest.mark.anyio

WITHIN_S = 30.0
GOOD = json.dumps({"model": "iris", "inputs": IRIS}).encode()
MOST_BYTES = 4 * 1024 * 1024


class Connection:
    """One connection to the server, as a caller's program has it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, *pieces: bytes) -> None:
        """Send pieces, each of which arrives by itself."""
        for piece in pieces:
            self._writer.write(piece)
            await self._writer.drain()
            # The server runs in this same loop: it reads what is there before the next piece follows.
            for _ in range(20):
                await asyncio.sleep(0)

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        """Read one answer: its status, its headers, its body."""
        head = (await self.head()).decode("latin-1")
        async with asyncio.timeout(WITHIN_S):
            first, *lines = head.rstrip().split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            body = await self._reader.readexactly(int(headers["content-length"]))
        return int(first.split()[1]), headers, json.loads(body)

    async def head(self) -> bytes:
        """Read to the end of what comes before a body."""
        async with asyncio.timeout(WITHIN_S):
            return await self._reader.readuntil(b"\r\n\r\n")

    async def rest(self) -> bytes:
        """Read all that comes until the server closes the connection."""
        async with asyncio.timeout(WITHIN_S):
            return await self._reader.read()

    async def ended(self) -> bool:
        """Whether the server has closed the connection, once it does or has something to say."""
        async with asyncio.timeout(WITHIN_S):
            return await self._reader.read(1) == b""

    def close(self) -> None:
        self._writer.close()


class CountingProtocol(PredictionProtocol):
    """Counts the heads that the parser reads."""

    heads_read = 0

    def on_headers_complete(self) -> None:
        self.heads_read += 1
        super().on_headers_complete()


class Line:
    """A server of this world, and a key of one of its tenants."""

    def __init__(self, world: World, tenant: TenantUnderTest, server: uvicorn.Server) -> None:
        self.world = world
        self.server = server
        self._key = tenant.live
        self._owner = tenant.owner_email
        self._open: list[Connection] = []

    async def connect(self) -> Connection:
        connection = Connection(*await asyncio.open_connection(*address_of(self.server)))
        self._open.append(connection)
        return connection

    def head(
        self, body: bytes | None = GOOD, *, target: str = "/v1/predict", version: str = "1.1", **headers: str
    ) -> bytes:
        """Return the head of a request; ``body`` decides its length, ``None`` leaves that to the headers."""
        lines = [f"POST {target} HTTP/{version}", "Host: forecourt", f"Authorization: Bearer {self._key.secret}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    async def revoke(self) -> None:
        """Revoke the key."""
        headers = await self.world.log_in(self._owner)
        answer = await self.world.client.post(f"/v1/api-keys/{self._key.id}/revoke", headers=headers)
        assert answer.status_code == 200, answer.text

    def close(self) -> None:
        for connection in self._open:
            connection.close()


@pytest.fixture
async def line(world: World) -> AsyncIterator[Line]:
    tenant = await world.tenant()
    async with listening(world.app, http=CountingProtocol) as server:
        found = Line(world, tenant, server)
        yield found
        found.close()


def is_prediction(answer: tuple[int, dict[str, str], Any]) -> bool:
    status, headers, content = answer
    return status == 200 and headers["x-usage-units"] == "1" and len(content["predictions"]) == 1


async def test_a_whole_request_is_answered_with_all_that_the_other_route_says(line: Line) -> None:
    connection = await line.connect()
    await connection.send(line.head() + GOOD)
    whole = await connection.answer()
    # The empty query makes it unusual: FastAPI answers it.
    await connection.send(line.head(target="/v1/predict?again") + GOOD)
    other = await connection.answer()
    assert is_prediction(whole)
    assert is_prediction(other)
    assert set(whole[1]) == set(other[1])
    assert "connection" not in whole[1]
    for name in ("content-type", "x-content-type-options", "referrer-policy", "ratelimit-policy"):
        assert whole[1][name] == other[1][name]


async def test_many_requests_go_over_one_connection(line: Line) -> None:
    connection = await line.connect()
    for number in range(5):
        await connection.send(line.head(X_Request_Id=f"mine-{number}") + GOOD)
        answer = await connection.answer()
        assert is_prediction(answer)
        assert answer[1]["x-request-id"] == f"mine-{number}"


@pytest.mark.parametrize("target", ["/v1/models/iris/predict", "/v1/models/iris@1/predict"])
async def test_a_models_own_path_is_answered(line: Line, target: str) -> None:
    body = json.dumps({"inputs": IRIS}).encode()
    connection = await line.connect()
    await connection.send(line.head(body, target=target) + body)
    assert is_prediction(await connection.answer())


@pytest.mark.parametrize("cut", ["head", "between", "body"])
async def test_a_request_in_two_pieces_is_one_request(line: Line, cut: str) -> None:
    request = line.head() + GOOD
    at = {"head": 20, "between": len(request) - len(GOOD), "body": len(request) - 5}[cut]
    connection = await line.connect()
    for _ in range(2):
        await connection.send(request[:at], request[at:])
        assert is_prediction(await connection.answer())


async def test_a_request_byte_by_byte_is_one_request(line: Line) -> None:
    request = line.head() + GOOD
    connection = await line.connect()
    await connection.send(*[request[place : place + 1] for place in range(len(request))])
    assert is_prediction(await connection.answer())


async def test_requests_sent_ahead_are_answered_in_their_order(line: Line) -> None:
    connection = await line.connect()
    wrong = b'{"model": "iris", "inputs": [[1.0]]}'
    requests = [
        line.head(X_Request_Id="a") + GOOD,
        line.head(wrong, X_Request_Id="b") + wrong,
        line.head(X_Request_Id="c", target="/v1/predict?slowly") + GOOD,
        line.head(X_Request_Id="d") + GOOD,
    ]
    await connection.send(b"".join(requests))
    answers = [await connection.answer() for _ in requests]
    assert [headers["x-request-id"] for _, headers, _ in answers] == ["a", "b", "c", "d"]
    assert [status for status, _, _ in answers] == [200, 422, 200, 200]


async def test_a_chunked_body_is_read(line: Line) -> None:
    head = line.head(None, Transfer_Encoding="chunked")
    chunks = b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (10, GOOD[:10], len(GOOD) - 10, GOOD[10:])
    connection = await line.connect()
    await connection.send(head + chunks)
    assert is_prediction(await connection.answer())
    await connection.send(head + chunks[:30], chunks[30:])
    assert is_prediction(await connection.answer())


async def test_no_body_is_a_bad_request(line: Line) -> None:
    connection = await line.connect()
    await connection.send(line.head(b""))
    status, _, content = await connection.answer()
    assert (status, content["code"]) == (400, "malformed-request")


@pytest.mark.parametrize("length", [MOST_BYTES, MOST_BYTES + 1])
async def test_a_body_is_bounded_whether_or_not_it_says_its_length(line: Line, length: int) -> None:
    body = GOOD + b" " * (length - len(GOOD))
    expected = 200 if length == MOST_BYTES else 413
    connection = await line.connect()
    await connection.send(line.head(None, Transfer_Encoding="chunked") + b"%x\r\n%b\r\n0\r\n\r\n" % (length, body))
    assert (await connection.answer())[0] == expected
    connection = await line.connect()
    await connection.send(line.head(body) + body)
    assert (await connection.answer())[0] == expected


async def test_who_waits_to_be_told_to_go_on_is_told(line: Line) -> None:
    connection = await line.connect()
    await connection.send(line.head(Expect="100-continue"))
    assert await connection.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
    await connection.send(GOOD)
    assert is_prediction(await connection.answer())


@pytest.mark.parametrize(
    ("version", "connection_header", "stays"),
    [("1.1", None, True), ("1.1", "close", False), ("1.0", None, False), ("1.1", "keep-alive", True)],
)
async def test_a_connection_ends_as_its_client_asked(
    line: Line, version: str, connection_header: str | None, stays: bool
) -> None:
    headers: dict[str, Any] = {} if connection_header is None else {"Connection": connection_header}
    connection = await line.connect()
    await connection.send(line.head(version=version, **headers) + GOOD)
    assert is_prediction(await connection.answer())
    if stays:
        await connection.send(line.head() + GOOD)
        assert is_prediction(await connection.answer())
    else:
        assert await connection.ended()


async def test_what_is_no_http_is_refused_and_the_connection_closed(line: Line) -> None:
    connection = await line.connect()
    await connection.send(line.head(None, Transfer_Encoding="chunked") + b"no number\r\n")
    assert (await connection.rest()).startswith(b"HTTP/1.1 400 ")


async def test_who_leaves_before_the_answer_harms_nobody(line: Line) -> None:
    for cut in (20, len(line.head()), len(line.head()) + 5, len(line.head() + GOOD)):
        connection = await line.connect()
        await connection.send((line.head() + GOOD)[:cut])
        connection.close()
    connection = await line.connect()
    await connection.send(line.head() + GOOD)
    assert is_prediction(await connection.answer())


async def test_who_does_not_read_is_waited_for(line: Line) -> None:
    """Answers do not pile up for a caller who only sends: the server stops reading him."""
    rows = IRIS * 1_000
    body = json.dumps({"model": "iris", "inputs": rows}).encode()
    request = line.head(body) + body
    connection = await line.connect()
    count = 40
    sending = asyncio.create_task(connection.send(*[request] * count))
    for number in range(count):
        status, headers, content = await connection.answer()
        assert (status, headers["x-usage-units"], len(content["predictions"])) == (200, "1000", 1_000), number
    await sending


async def test_a_predictions_answer_is_not_held_back_and_one_in_two_writes_may_be(line: Line) -> None:
    connection = await line.connect()
    for target, held_back in (("/v1/predict", False), ("/v1/predict?slowly", True), ("/v1/predict", False)):
        await connection.send(line.head(target=target) + GOOD)
        assert is_prediction(await connection.answer())
        [protocol] = line.server.server_state.connections
        assert isinstance(protocol, PredictionProtocol)
        _, high = protocol.transport.get_write_buffer_limits()
        assert bool(high) == held_back


async def test_a_server_that_ends_says_so_to_whoever_is_still_connected(line: Line) -> None:
    idle, busy = await line.connect(), await line.connect()
    await busy.send(line.head() + GOOD[:10])
    line.server.should_exit = True
    assert await idle.ended()
    await busy.send(GOOD[10:])
    status, headers, _ = await busy.answer()
    assert (status, headers["connection"]) == (200, "close")
    assert await busy.ended()


# Heads that have been read before


def other_body(rows: int) -> bytes:
    return json.dumps({"model": "iris", "inputs": IRIS * rows}).encode()


class Reads:
    """A client's requests over one connection, and how many of their heads the server has read."""

    def __init__(self, line: Line, connection: Connection) -> None:
        self.line = line
        self.connection = connection

    async def predict(self, body: bytes = GOOD, **headers: str) -> tuple[int, dict[str, str], Any]:
        await self.connection.send(self.line.head(body, **headers) + body)
        return await self.connection.answer()

    @property
    def heads_read(self) -> int:
        [protocol] = self.line.server.server_state.connections
        assert isinstance(protocol, CountingProtocol)
        return protocol.heads_read


@pytest.fixture
async def reads(line: Line) -> Reads:
    return Reads(line, await line.connect())


async def test_a_head_that_comes_again_is_not_read_again_whatever_its_body(reads: Reads) -> None:
    for rows in (1, 1, 30, 2, 1):
        body = other_body(rows)
        status, headers, content = await reads.predict(body)
        assert (status, headers["x-usage-units"], len(content["predictions"])) == (200, str(rows), rows)
    assert reads.heads_read == 1
    wrong = b'{"model": "iris", "inputs": [[1.0]]}'
    assert (await reads.predict(wrong))[0] == 422
    assert (await reads.predict(b""))[0] == 400
    assert is_prediction(await reads.predict())
    assert reads.heads_read == 1


async def test_each_answer_to_a_known_head_has_an_id_and_a_line_of_its_own(
    reads: Reads, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="forecourt.access")
    log = reads.line.world.app.front.access_log  # type: ignore[attr-defined]
    log.flush()
    caplog.clear()
    answers = [await reads.predict() for _ in range(3)]
    log.flush()
    ids = [headers["x-request-id"] for _, headers, _ in answers]
    assert len(set(ids)) == len({content["id"] for _, _, content in answers}) == 3
    [record] = caplog.records
    assert [request_id for _, _, _, request_id, _ in record.__dict__["lines"]] == ids


async def test_another_head_is_read(reads: Reads) -> None:
    assert is_prediction(await reads.predict())
    assert (await reads.predict(Cache_Control="no-store"))[1]["cache-status"] == "forecourt; fwd=miss"
    assert (await reads.predict(X_Request_Id="mine"))[1]["x-request-id"] == "mine"
    assert (await reads.predict())[1]["cache-status"] == "forecourt; hit"
    assert reads.heads_read == 4
    assert (await reads.predict())[1]["cache-status"] == "forecourt; hit"
    assert reads.heads_read == 4


async def test_heads_that_never_come_again_are_given_up_on(reads: Reads) -> None:
    for number in range(20):
        assert is_prediction(await reads.predict(Traceparent=f"00-{number}"))
    for _ in range(3):
        assert is_prediction(await reads.predict(Traceparent="00-same"))
    assert reads.heads_read == 23


async def test_a_known_head_in_two_pieces_is_read_as_ever(reads: Reads) -> None:
    for at in (10, len(reads.line.head()), len(reads.line.head()) + 4):
        assert is_prediction(await reads.predict())
        request = reads.line.head() + GOOD
        await reads.connection.send(request[:at], request[at:])
        assert is_prediction(await reads.connection.answer())


async def test_two_requests_with_a_known_head_in_one_piece_are_two(reads: Reads) -> None:
    assert is_prediction(await reads.predict())
    wrong = b'{"model": "iris", "inputs": [[1.0]]}'
    both = reads.line.head() + GOOD + reads.line.head(wrong) + wrong
    await reads.connection.send(both + reads.line.head() + GOOD)
    assert [(await reads.connection.answer())[0] for _ in range(3)] == [200, 422, 200]
    assert is_prediction(await reads.predict())


async def test_a_request_sent_while_a_known_one_is_answered_waits_for_it(reads: Reads) -> None:
    assert is_prediction(await reads.predict())
    large = other_body(500)
    await asyncio.gather(
        reads.connection.send(reads.line.head(large) + large), reads.connection.send(reads.line.head() + GOOD)
    )
    answers = [await reads.connection.answer() for _ in range(2)]
    assert [headers["x-usage-units"] for _, headers, _ in answers] == ["500", "1"]


@pytest.mark.parametrize("length", [b"0x5c", b"-5", b"+92", b" ", b"92 92", b"9" * 9, b"\xb2"])
async def test_a_length_that_is_none_is_refused_also_behind_a_known_head(reads: Reads, length: bytes) -> None:
    assert is_prediction(await reads.predict())
    name = b"Content-Length: "
    before, _, _ = reads.line.head().partition(name)
    await reads.connection.send(before + name + length + b"\r\n\r\n" + GOOD)
    if length == b"9" * 9:
        status, _, content = await reads.connection.answer()
        assert (status, content["code"]) == (413, "payload-too-large")
    else:
        assert (await reads.connection.rest()).startswith(b"HTTP/1.1 400 ")


async def test_a9_a_key_that_is_revoked_meanwhile_opens_nothing_on_a_known_connection(reads: Reads) -> None:
    assert is_prediction(await reads.predict())
    assert is_prediction(await reads.predict())
    await reads.line.revoke()
    status, _, content = await reads.predict()
    assert (status, content["code"]) == (401, "key-revoked")
    assert reads.heads_read == 1


async def test_an_override_of_a_dependency_holds_on_a_known_connection(reads: Reads) -> None:
    app, clock = reads.line.world.app, FakeClock()
    clock.advance(-1_000_000_000)
    assert is_prediction(await reads.predict())
    app.dependency_overrides[deps.get_clock] = lambda: clock
    try:
        answer = await reads.predict()
    finally:
        del app.dependency_overrides[deps.get_clock]
    assert is_prediction(answer)
    await reads.line.world.resources.predictions.settled()
    events = reads.line.world.rows("SELECT occurred_at FROM usage_events WHERE event_id = :id", id=answer[2]["id"])
    assert str(events[0][0])[:10] == clock.now().date().isoformat()


async def test_who_leaves_before_the_answer_to_a_known_head_harms_nobody(line: Line) -> None:
    leaving = Reads(line, await line.connect())
    assert is_prediction(await leaving.predict())
    await leaving.connection.send(line.head() + GOOD)
    leaving.connection.close()
    staying = Reads(line, await line.connect())
    for _ in range(2):
        assert is_prediction(await staying.predict())
    async with asyncio.timeout(WITHIN_S):
        while line.server.server_state.tasks or len(line.server.server_state.connections) > 1:
            await asyncio.sleep(0)


async def test_a_connection_is_closed_once_nothing_has_come_for_long_enough(reads: Reads) -> None:
    [protocol] = reads.line.server.server_state.connections
    assert isinstance(protocol, PredictionProtocol)
    for _ in range(3):
        assert is_prediction(await reads.predict())
        timer = protocol.timeout_keep_alive_task
        assert timer is not None
        # As it rings, although something has come since it was set.
        timer.cancel()
        protocol.timeout_keep_alive_handler()
        assert protocol.timeout_keep_alive_task not in {timer, None}
    protocol.timeout_keep_alive = 0
    protocol.timeout_keep_alive_handler()
    assert await reads.connection.ended()


async def test_a_connection_is_not_closed_while_a_request_is_answered(reads: Reads) -> None:
    [protocol] = reads.line.server.server_state.connections
    assert isinstance(protocol, PredictionProtocol)
    assert is_prediction(await reads.predict())

    async def ring() -> None:
        before = protocol.cycle
        async with asyncio.timeout(WITHIN_S):
            while protocol.cycle is before:
                await asyncio.sleep(0)
        assert not protocol.cycle.response_complete
        as_served, protocol.timeout_keep_alive = protocol.timeout_keep_alive, 0
        protocol.timeout_keep_alive_handler()
        protocol.timeout_keep_alive = as_served

    for other in (None, "head"):
        headers = {} if other is None else {"X_Other": other}
        answer, _ = await asyncio.gather(reads.predict(GOOD, **headers), ring())
        assert is_prediction(answer)
        assert protocol.timeout_keep_alive_task is not None


async def test_a_server_that_ends_answers_a_known_head_first(reads: Reads) -> None:
    assert is_prediction(await reads.predict())
    large = other_body(1_000)
    sending = asyncio.create_task(reads.connection.send(reads.line.head(large) + large))
    async with asyncio.timeout(WITHIN_S):
        while not reads.line.server.server_state.tasks:
            await asyncio.sleep(0)
    reads.line.server.should_exit = True
    await sending
    status, headers, _ = await reads.connection.answer()
    assert (status, headers["x-usage-units"]) == (200, "1000")
    assert await reads.connection.ended()


class Watched:
    """A prediction service, and what each request said of those behind it."""

    def __init__(self, predictions: PredictionService) -> None:
        self._predictions = predictions
        self.others_followed: list[bool] = []

    async def predict(self, caller: PredictCaller, command: PredictCommand) -> Any:
        self.others_followed.append(command.others_follow)
        return await self._predictions.predict(caller, command)


async def test_the_last_request_of_a_turn_says_that_nobody_follows(line: Line) -> None:
    opened = line.world.resources
    told = Watched(opened.predictions)
    line.world.app.state.resources = replace(opened, predictions=cast("PredictionService", told))
    try:
        several = [await line.connect() for _ in range(3)]
        for connection in several:
            await connection.send(line.head() + GOOD)
            assert is_prediction(await connection.answer())
        # Heads that are read: who follows is not known.
        assert told.others_followed == [True] * 3
        for count in (1, 3, 2):
            told.others_followed.clear()
            # None waits for what it sends, so all are there when the loop looks next.
            await asyncio.gather(*[connection.send(line.head() + GOOD) for connection in several[:count]])
            for connection in several[:count]:
                assert is_prediction(await connection.answer())
            assert told.others_followed == [True] * (count - 1) + [False]
    finally:
        line.world.app.state.resources = opened
