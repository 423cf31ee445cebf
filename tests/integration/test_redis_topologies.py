"""The other kinds of Redis that FORECOURT_REDIS_URL may name: Cluster, Sentinel, and any of them over TLS."""

import asyncio
import itertools
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import anyio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from redis.crc import key_slot

from backend.adapters.memory.metrics import NullMetrics
from backend.adapters.redis import RedisAdmission, RedisLoginThrottle, ScriptRunner, open_line
from backend.adapters.redis.line import OUTAGES
from backend.adapters.redis.quota_reconciliation import RedisQuotaReconciliation
from backend.adapters.redis.usage_spill import RedisUsageSpill
from backend.domain.admission import Epochs, StoredAnswer, Verdict
from backend.domain.clock import SystemClock
from backend.domain.errors import EnforcementUnavailable
from backend.domain.ids import TenantId
from tests.contracts.asking import Desk, ask, claim, key_rate, lease_of, tenant_quota, tenant_rate
from tests.fakes import FakeClock, FakeHistory
from tests.integration.test_redis_coalescing import echo, packets
from tests.redis_client import connect
from tests.server_process import Server
from tests.servers import ServerNotFound, private_redis_server, redis_cluster, redis_sentinel

pytestmark = pytest.mark.anyio

PATIENT_S = 10.0


@asynccontextmanager
async def desk(url: str, tenant: str = "ten_a") -> AsyncIterator[Desk]:
    async with aclosing(open_line(url, PATIENT_S)) as line:
        history = FakeHistory()
        admission = RedisAdmission(ScriptRunner(line), history, cache_ttl_s=300.0)
        yield Desk(admission, FakeClock(), history, TenantId(tenant))


async def everything_works(url: str, tenant: str = "ten_a") -> None:
    """Admit, settle alone and together, replay, release, announce, look and throttle."""
    quota, rates = tenant_quota(10), (key_rate(60), tenant_rate(60))
    async with desk(url, tenant) as here:
        request = ask(cost=2, rates=rates, quotas=(quota,), idempotency=claim(), cache_keys=(b"a" * 20, b"b" * 20))
        lease = lease_of(await here.admit(request))
        await here.settle(lease, answer=StoredAnswer(status=200, body=b"{}"), fill=((b"a" * 20, b"1"),))
        assert await here.verdict(ask(idempotency=claim())) is Verdict.REPLAY
        await here.release(lease_of(await here.admit(ask(cost=3, quotas=(quota,)))))
        await here.settle_all([lease_of(await here.admit(ask(quotas=(quota,)))) for _ in range(2)])
        assert await here.counted(quota) == (4, 0)
        assert await here.remaining(tenant_rate(60)) <= 60
        assert (await here.admit(ask(cache_keys=(b"a" * 20,)))).cached == (b"1",)
        assert await here.verdict(ask(cost=9, quotas=(quota,))) is Verdict.QUOTA_EXCEEDED
        await here.admission.announce(here.tenant, "key_a", 2)
        assert await here.verdict(ask(epochs=Epochs(tenant=1, credential=1))) is Verdict.STALE
    async with aclosing(open_line(url, PATIENT_S)) as line:
        throttle = RedisLoginThrottle(ScriptRunner(line))
        for _ in range(10):
            await throttle.failed("a@example.com", "192.0.2.1")
        assert await throttle.delay_s("a@example.com", "192.0.2.1") > 0
        await throttle.succeeded("a@example.com", "192.0.2.1")


# Cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[list[Server]]:
    try:
        with redis_cluster() as servers:
            yield servers
    except ServerNotFound as error:
        pytest.fail(str(error), pytrace=False)


def cluster_url(servers: list[Server]) -> str:
    return "redis+cluster://" + ",".join(server.url.removeprefix("redis://") for server in servers[:2])


async def test_on_a_cluster_everything_works_for_tenants_on_every_node(cluster: list[Server]) -> None:
    for number in range(8):
        await everything_works(cluster_url(cluster), f"ten_{number}")
    for server in cluster:
        async with aclosing(connect(server.url, PATIENT_S)) as client:
            assert await client.dbsize() > 0, "the tenants should have spread"


async def test_l1_on_a_cluster_of_four_times_the_cap_exactly_the_cap_passes(cluster: list[Server]) -> None:
    url, quota = cluster_url(cluster), tenant_quota(25)
    async with desk(url, "ten_cap") as one, desk(url, "ten_cap") as two:
        verdicts = await asyncio.gather(*[each.verdict(ask(quotas=(quota,))) for each in (one, two) * 50])
    assert verdicts.count(Verdict.ADMITTED) == 25


async def test_on_a_cluster_quota_counters_of_every_node_are_compared_with_the_ledger(cluster: list[Server]) -> None:
    url, quota = cluster_url(cluster), tenant_quota(1000)
    async with AsyncExitStack() as stack:
        desks = [await stack.enter_async_context(desk(url, f"ten_behind_{number}")) for number in range(12)]
        books = FakeHistory()
        for here in desks:
            lease = lease_of(await here.admit(ask(cost=7, quotas=(quota,))))
            books.record(here.tenant, 7, environment=lease.environment, period=lease.period, credential_id="key_a")
            await here.release(lease)
        async with aclosing(open_line(url, PATIENT_S)) as line:
            spill = RedisUsageSpill(line, line, limit=1, metrics=NullMetrics())
            reconciliation = RedisQuotaReconciliation(line, books, spill, SystemClock(), metrics=NullMetrics())
            assert len(await line.primaries()) == len(cluster)
            await reconciliation.run()
        assert [await here.counted(quota) for here in desks] == [(7, 0)] * len(desks)


async def test_on_a_cluster_calls_of_one_turn_leave_together_and_everybody_gets_his_own_answer(
    cluster: list[Server],
) -> None:
    async with AsyncExitStack() as stack:
        line = await stack.enter_async_context(aclosing(open_line(cluster_url(cluster), PATIENT_S)))
        clients = [await stack.enter_async_context(aclosing(connect(each.url, PATIENT_S))) for each in cluster]
        await asyncio.gather(*[echo(line, number) for number in range(60)])
        before = [await packets(client, "total_reads_processed") for client in clients]
        await asyncio.gather(*[echo(line, number) for number in range(300)])
        after = [await packets(client, "total_reads_processed") for client in clients]
    # A hundred calls to each node, each twice, since none keeps the script; the nodes talk to each other as well.
    assert max(now - then for now, then in zip(after, before, strict=True)) < 60


async def test_on_a_cluster_calls_follow_a_slot_that_has_moved(cluster: list[Server]) -> None:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(aclosing(connect(each.url, PATIENT_S))) for each in cluster[:2]]
        ids = [(await client.execute_command("CLUSTER", "MYID")).decode() for client in clients]  # type: ignore[no-untyped-call]
        # The first node's, and nothing lies in it: what is echoed is not kept.
        number = next(number for number in itertools.count() if key_slot(f"k{number}".encode()) < 5000)
        slot = key_slot(f"k{number}".encode())
        async with aclosing(open_line(cluster_url(cluster), PATIENT_S)) as line:
            await echo(line, number)
            for there in (1, 0):
                for client in (clients[there], clients[1 - there]):
                    await client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[there])  # type: ignore[no-untyped-call]
                for _ in range(3):
                    await echo(line, number)


async def test_on_a_cluster_a_node_that_was_silent_is_found_again(cluster: list[Server]) -> None:
    async with aclosing(open_line(cluster_url(cluster), 0.5)) as line:
        await asyncio.gather(*[echo(line, number) for number in range(20)])
        cluster[2].pause()
        outcomes = await asyncio.gather(*[echo(line, number) for number in range(20)], return_exceptions=True)
        cluster[2].resume()
        failed = [outcome for outcome in outcomes if outcome is not None]
        assert failed
        assert all(isinstance(outcome, OUTAGES) for outcome in failed)
        with anyio.fail_after(30):
            while any(await asyncio.gather(*[echo(line, each) for each in range(20)], return_exceptions=True)):
                await asyncio.sleep(0.05)


# Sentinel


async def test_after_a_failover_the_new_primary_is_found_by_itself() -> None:
    with private_redis_server() as primary:
        host, port = primary.url.removeprefix("redis://").split(":")
        with private_redis_server("--replicaof", host, port) as replica, redis_sentinel(primary) as sentinel:
            url = sentinel.url.replace("redis://", "redis+sentinel://") + "/main"
            await everything_works(url)
            await _is_followed(primary, sentinel)
            async with desk(url) as here:
                await here.admit(ask())
                primary.kill()
                async with asyncio.timeout(60):
                    while True:
                        try:
                            # What had been copied is still there; what had not is read again from the store.
                            assert await here.verdict(ask()) is Verdict.STALE
                            break
                        except EnforcementUnavailable:
                            await asyncio.sleep(0.05)
                fresh = ask(epochs=Epochs(tenant=1, credential=2, fresh=True))
                assert await here.verdict(fresh) is Verdict.ADMITTED
            async with aclosing(connect(replica.url, PATIENT_S)) as client:
                assert (await client.info("replication"))["role"] == "master"


async def _is_followed(primary: Server, sentinel: Server) -> None:
    """Wait until the replica has everything, and the Sentinel knows of it."""
    async with aclosing(connect(primary.url, PATIENT_S)) as client, aclosing(connect(sentinel.url, PATIENT_S)) as watch:
        async with asyncio.timeout(60):
            while await client.execute_command("WAIT", 1, 100) < 1:  # type: ignore[no-untyped-call]
                await asyncio.sleep(0.05)
            while not await watch.execute_command("SENTINEL", "REPLICAS", "main"):  # type: ignore[no-untyped-call]
                await asyncio.sleep(0.05)


async def test_a_service_that_sentinel_does_not_know_is_an_outage() -> None:
    with private_redis_server() as primary, redis_sentinel(primary) as sentinel:
        url = sentinel.url.replace("redis://", "redis+sentinel://") + "/other"
        async with aclosing(open_line(url, PATIENT_S)) as line:
            with pytest.raises(OUTAGES):
                await line.ping()


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of its own for this machine, with its key in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return file


@asynccontextmanager
async def behind_tls(server: Server, certificate: Path) -> AsyncIterator[str]:
    """Put TLS before a server, as a proxy does; yield the address."""
    host, port = server.url.removeprefix("redis://").split(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    running: set[asyncio.Task[None]] = set()

    async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(host, int(port))
        running.add(asyncio.create_task(carry(reader, there_writer)))
        running.add(asyncio.create_task(carry(there_reader, writer)))

    proxy = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield f"rediss://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
    finally:
        proxy.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def test_over_tls_everything_works_and_a_stranger_is_not_talked_to(certificate: Path) -> None:
    with private_redis_server() as server:
        async with behind_tls(server, certificate) as url:
            await everything_works(f"{url}?ssl_ca_certs={certificate}")
            async with aclosing(open_line(url, PATIENT_S)) as line:
                with pytest.raises(OUTAGES):
                    await line.ping()
