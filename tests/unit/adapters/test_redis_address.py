"""What FORECOURT_REDIS_URL may look like."""

import pytest

from backend.adapters.redis.address import Kind, RedisAddress, UnusableRedisUrl, parse_address


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://cache", RedisAddress(kind=Kind.SERVER, hosts=(("cache", 6379),))),
        ("redis://[::1]:7000/3", RedisAddress(kind=Kind.SERVER, hosts=(("::1", 7000),), database=3)),
        (
            "rediss://app:p%40ss%2Fword@cache:6380/1?ssl_ca_certs=/ca.pem",
            RedisAddress(
                kind=Kind.SERVER,
                hosts=(("cache", 6380),),
                database=1,
                username="app",
                password="p@ss/word",
                is_tls=True,
                options={"ssl_ca_certs": "/ca.pem"},
            ),
        ),
        ("redis://:only@cache", RedisAddress(kind=Kind.SERVER, hosts=(("cache", 6379),), password="only")),
        ("unix:///run/redis.sock?db=2", RedisAddress(kind=Kind.SOCKET, path="/run/redis.sock", database=2)),
        (
            "redis+sentinel://:secret@one,two:26380/main/4?sentinel_password=watch",
            RedisAddress(
                kind=Kind.SENTINEL,
                hosts=(("one", 26379), ("two", 26380)),
                service="main",
                database=4,
                password="secret",
                options={"sentinel_password": "watch"},
            ),
        ),
        ("redis+cluster://a:1,b:2", RedisAddress(kind=Kind.CLUSTER, hosts=(("a", 1), ("b", 2)))),
        ("rediss+cluster://a", RedisAddress(kind=Kind.CLUSTER, hosts=(("a", 6379),), is_tls=True)),
    ],
)
def test_an_address_is_taken_apart(url: str, address: RedisAddress) -> None:
    assert parse_address(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "",
        "cache:6379",
        "http://cache",
        "redis://",
        "redis://:6379",
        "redis://a,b",
        "redis://cache:port",
        "redis://cache:70000",
        "redis://cache/first",
        "redis://cache/1/2",
        "redis://cache?ssl_ca_certs=/ca.pem",
        "rediss://cache?ssl_cert_reqs=sometimes",
        "redis://cache?retry=yes",
        "redis+sentinel://one,two",
        "redis+sentinel://one,/main",
        "redis+sentinel://one/main/x",
        "redis+cluster://a/1",
        "redis+cluster://a,,b",
        "unix://cache",
        "redis://[::1",
    ],
)
def test_a_malformed_address_is_refused(url: str) -> None:
    with pytest.raises(UnusableRedisUrl):
        parse_address(url)


@pytest.mark.parametrize(
    "url", ["http://u:hunter2@cache", "redis://u:hunter2@cache:x", "redis://u:hunter2@c?x=hunter2"]
)
def test_a_refusal_repeats_no_password(url: str) -> None:
    with pytest.raises(UnusableRedisUrl) as refusal:
        parse_address(url)
    assert "hunter2" not in str(refusal.value)
    assert "hunter2" not in repr(parse_address("redis://u:hunter2@cache"))
