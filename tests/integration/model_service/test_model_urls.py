"""The repository at a URL: served, changed while serving, and gone for a while, as a folder is."""

import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import orjson
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from backend.adapters.fsspec import open_url
from backend.adapters.fsspec.artifact_cache import ArtifactCache
from backend.adapters.fsspec.lease import LEASE_S, Lease
from backend.composition.misconfigured import MisconfiguredError
from backend.composition.models import open_model_files
from backend.domain.errors import ModelUnavailable
from backend.domain.health import HealthStatus
from backend.domain.models import ModelRef, OutputOptions
from backend.model_service import ModelService, RegistrationError, register
from backend.model_service.aliases import WeightedVersion
from backend.model_service.repository import ModelRepository
from backend.model_service.rollouts import FolderRollouts
from backend.services.ports import ModelFiles
from backend.settings import Settings
from tests.s3_server import BUCKET, S3Server, s3_server

pytestmark = pytest.mark.anyio

ROW = [5.1, 3.5, 1.4, 0.2]
CACHE_BYTES = 10**9


@pytest.fixture(scope="module")
def running() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def s3(running: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    for name, value in running.environment().items():
        monkeypatch.setenv(name, value)
    yield running
    running.fails_for, running.read_only = None, False


@pytest.fixture
def prefix(s3: S3Server, registered_root: Path) -> str:
    """The registered models in the store, below a prefix of the test's own."""
    prefix = uuid4().hex
    for path in registered_root.rglob("*"):
        if path.is_file():
            key = f"{prefix}/{path.relative_to(registered_root)}"
            s3.objects[key] = (path.read_bytes(), "2026-01-02T03:04:05.000Z")
    return prefix


@pytest.fixture
def files(prefix: str, tmp_path: Path) -> ModelFiles:
    return open_url(f"s3://{BUCKET}/{prefix}", tmp_path / "cache", CACHE_BYTES)


@asynccontextmanager
async def serving(files: ModelFiles) -> AsyncIterator[ModelService]:
    service = await ModelService.open(files)
    try:
        yield service
    finally:
        await service.aclose()


async def label(service: ModelService, reference: str) -> str:
    model = service.resolve(ModelRef.parse(reference))
    answers = await model.run(model.encode([ROW]), [0], OutputOptions(), share="a")
    return str(orjson.loads(answers[0])["label"])


async def health(service: ModelService) -> dict[str, tuple[HealthStatus, str | None]]:
    return {line.name: (line.status, line.detail) for line in await service.check()}


async def test_it_is_served_and_a_look_at_what_has_not_changed_asks_once(
    s3: S3Server, files: ModelFiles, prefix: str
) -> None:
    async with serving(files) as service:
        assert [each.name for each in service.list()] == ["forest", "iris"]
        assert await label(service, "iris@2") == "setosa"
        s3.asked.clear()
        await service.refresh()
        assert s3.asked == [("GET", f"list {prefix}/")]
        assert service.loads == 3


async def test_versions_aliases_and_removals_are_taken_over(files: ModelFiles, registered_root: Path) -> None:
    folder = ModelRepository(registered_root)
    async with serving(files) as service:
        rollouts = FolderRollouts(ModelRepository(files))
        await rollouts.set_alias("iris", "stable", {"1": 1})
        await service.refresh()
        assert service.resolve(ModelRef.parse("iris")).info.version == "1"
        manifest = folder.manifest("iris", "1")
        third = orjson.loads(manifest.to_json()) | {"version": "3"}
        files.add("iris", "3", [(manifest.artifact, folder.artifact(manifest)), ("manifest.json", orjson.dumps(third))])
        await rollouts.set_alias("iris", "stable", {"3": 1})
        await rollouts.unload("iris", "2")
        ModelRepository(files).remove("iris", "1")
        await service.refresh()
        assert service.resolve(ModelRef.parse("iris")).info.version == "3"
        (_, iris) = service.list()
        assert (iris.numbers, iris.unloaded, iris.failed) == ({"2", "3"}, ("2",), {})
        with pytest.raises(ModelUnavailable):
            service.resolve(ModelRef.parse("iris@2"))


async def test_a_version_without_its_manifest_is_not_there_yet(
    s3: S3Server, files: ModelFiles, prefix: str, registered_root: Path
) -> None:
    async with serving(files) as service:
        s3.objects[f"{prefix}/iris/3/model.skops"] = s3.objects[f"{prefix}/iris/1/model.skops"]
        await service.refresh()
        (_, iris) = service.list()
        assert (iris.default_version, iris.failed) == ("2", {})


async def test_an_outage_takes_nothing_away_and_ends_by_itself(
    s3: S3Server, files: ModelFiles, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(files) as service:
        s3.fails_for = ""
        with caplog.at_level(logging.WARNING):
            await service.refresh()
            await service.refresh()
        assert [record.message for record in caplog.records].count(
            "the model repository cannot be read: ClientError"
        ) == 1
        assert await label(service, "iris") == "setosa"
        assert (await health(service))["models"] == (
            HealthStatus.DEGRADED,
            "the repository cannot be read (ClientError); what was loaded before serves",
        )
        with pytest.raises(ModelUnavailable, match="cannot be read or changed"):
            await FolderRollouts(ModelRepository(files)).set_alias("iris", "stable", {"1": 1})
        s3.fails_for = None
        await service.refresh()
        assert "models" not in await health(service)
        assert service.loads == 3


async def test_a_start_during_an_outage_serves_once_the_store_is_back(s3: S3Server, files: ModelFiles) -> None:
    s3.fails_for = ""
    async with serving(files) as service:
        assert service.list() == ()
        assert (await health(service))["models"][0] is HealthStatus.DOWN
        s3.fails_for = None
        await service.refresh()
        assert await label(service, "iris") == "setosa"
        assert "models" not in await health(service)


async def test_a_version_that_could_not_be_fetched_is_tried_again(
    s3: S3Server, files: ModelFiles, caplog: pytest.LogCaptureFixture
) -> None:
    s3.fails_for = "model.skops"
    async with serving(files) as service:
        reason = "The artifact cannot be read."
        assert {each.name: each.failed for each in service.list()} == {
            "forest": {"1": reason},
            "iris": {"2": reason, "1": reason},
        }
        caplog.clear()
        await service.refresh()
        assert not caplog.records, "what is known already is not said again"
        s3.fails_for = None
        await service.refresh()
        assert await label(service, "iris") == "setosa"
        assert all(not each.failed for each in service.list())


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("AWS_ACCESS_KEY_ID", "AKIDOTHER", "access is refused"),
        ("AWS_ACCESS_KEY_ID", "", "NoCredentialsError"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9", "EndpointConnectionError"),
    ],
    ids=["wrong", "none", "nobody there"],
)
async def test_bad_credentials_are_told_and_what_is_loaded_serves(
    files: ModelFiles, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    variable: str, value: str, reason: str,
) -> None:  # fmt: skip
    if value:
        monkeypatch.setenv(variable, value)
    else:
        monkeypatch.delenv(variable)
    async with serving(open_url(f"s3://{BUCKET}/{prefix}", tmp_path / "other", CACHE_BYTES)) as service:
        assert service.list() == ()
        said = f"the repository cannot be read ({reason}); nothing is loaded yet"
        assert (await health(service))["models"] == (HealthStatus.DOWN, said)


async def test_a_bucket_that_there_is_not_is_told(s3: S3Server, tmp_path: Path) -> None:
    async with serving(open_url("s3://nowhere/models", tmp_path, CACHE_BYTES)) as service:
        said = "the repository cannot be read (there is none); nothing is loaded yet"
        assert (await health(service))["models"] == (HealthStatus.DOWN, said)


def fetched(s3: S3Server) -> list[str]:
    """The artifacts that were asked for, not the small files."""
    asked = {key.split("/", 1)[1] for method, key in s3.asked if method == "GET" and not key.startswith("list")}
    return sorted(path for path in asked if not path.endswith(".json"))


async def test_a_restart_fetches_only_what_is_not_kept_whole(
    s3: S3Server, prefix: str, tmp_path: Path, registered_root: Path
) -> None:
    kept = tmp_path / "cache"

    async def start() -> list[str]:
        s3.asked.clear()
        async with serving(open_url(f"s3://{BUCKET}/{prefix}", kept, CACHE_BYTES)) as service:
            assert await label(service, "iris@1") == await label(service, "forest") == "setosa"
        return fetched(s3)

    assert {"forest/1/model.skops", "iris/1/model.skops", "iris/2/model.skops"} <= set(await start())
    assert await start() == []
    linear = kept / ModelRepository(registered_root).manifest("iris", "1").sha256
    linear.write_bytes(linear.read_bytes()[:-1] + b"x")
    assert await start() == ["iris/1/model.skops"]
    assert await start() == []


async def test_what_is_kept_stands_in_for_nothing_else(s3: S3Server, prefix: str, tmp_path: Path) -> None:
    async with serving(open_url(f"s3://{BUCKET}/{prefix}", tmp_path / "cache", CACHE_BYTES)) as service:
        forest, iris = (s3.objects[f"{prefix}/{name}/1/model.skops"] for name in ("forest", "iris"))
        s3.objects[f"{prefix}/forest/1/model.skops"] = iris
        manifest, changed = s3.objects[f"{prefix}/forest/1/manifest.json"]
        document = orjson.loads(manifest) | {"sha256": "0" * 64}
        s3.objects[f"{prefix}/forest/1/manifest.json"] = (orjson.dumps(document), changed)
        await service.refresh()
        assert service.list()[0].failed == {"1": "The artifact's SHA-256 is not the one in the manifest."}
        assert await label(service, "forest") == "setosa", "what was loaded before"
        assert forest != iris


def test_the_artifacts_kept_are_bounded_and_the_ones_read_longest_ago_go(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path / "cache", 25)
    contents = [bytes([65 + number]) * 10 for number in range(3)]
    digests = [sha256(content).hexdigest() for content in contents]
    for place, (digest, content) in enumerate(zip(digests[:2], contents[:2], strict=True)):
        cache.put(digest, content)
        os.utime(tmp_path / "cache" / digest, (place, place))
    assert cache.get(digests[0]) == contents[0], "now it is the one that was read last"
    cache.put(digests[2], contents[2])
    assert [cache.get(digest) is not None for digest in digests] == [True, False, True]
    cache.put(sha256(b"x" * 26).hexdigest(), b"x" * 26)
    cache.put(digests[1], b"not what the digest says")
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == sorted([digests[0], digests[2]])


def test_a_folder_that_cannot_be_written_keeps_nothing_and_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = ArtifactCache(tmp_path / "file" / "cache", CACHE_BYTES)
    digest = sha256(b"model").hexdigest()
    cache.put(digest, b"model")
    assert cache.get(digest) is None


def memory(tmp_path: Path) -> ModelFiles:
    return open_url(f"memory://{uuid4().hex}/models", tmp_path / "cache", CACHE_BYTES)


async def test_a_pipeline_is_registered_signed_and_served_in_memory(
    tmp_path: Path, iris_sample: Path, registered_root: Path
) -> None:
    files = memory(tmp_path)
    pipeline = registered_root / "iris" / "1" / "model.skops"
    done = register(files, pipeline, name="iris", sample=iris_sample, target="species", alias="stable")
    assert done.manifest.version == "1"
    repository = ModelRepository(files)
    repository.sign("iris", "1", lambda message: message[:64])
    assert repository.aliases("iris") == {"stable": (WeightedVersion("1", 1),)}
    service = await ModelService.open(files, is_signed=lambda message, signature: message[:64] == signature)
    assert await label(service, "iris@stable") == "setosa"
    await service.aclose()
    with pytest.raises(RegistrationError, match="already"):
        register(files, pipeline, name="iris", sample=iris_sample, target="species", version="1")


def test_what_cannot_be_written_is_told_and_leaves_nothing_to_see(
    s3: S3Server, files: ModelFiles, prefix: str, iris_sample: Path, registered_root: Path
) -> None:
    pipeline = registered_root / "iris" / "1" / "model.skops"
    before = set(s3.objects)
    s3.read_only = True
    with pytest.raises(RegistrationError, match="cannot be written"):
        register(files, pipeline, name="iris", sample=iris_sample, target="species")
    s3.read_only = False
    s3.fails_for = "manifest.json"  # everything before it is written
    with pytest.raises(OSError, match="Unavailable"):
        files.add("iris", "3", [("model.skops", b"data"), ("manifest.json", b"{}")])
    s3.fails_for = None
    assert set(s3.objects) == before
    assert sorted(files.versions("iris")) == ["1", "2"]


def test_the_lock_of_a_process_that_was_killed_ends_by_itself(tmp_path: Path) -> None:
    fs = MemoryFileSystem()
    path, now = f"/{uuid4().hex}/.lock", [1_000.0]
    killed = Lease(fs, path, now=lambda: now[0])
    assert killed._take()
    waiting = Lease(fs, path, wait_s=0.0, now=lambda: now[0])
    with pytest.raises(TimeoutError, match="another change"), waiting.held():
        pytest.fail("two hold it")
    now[0] += LEASE_S + 1
    with Lease(fs, path, now=lambda: now[0]).held():
        assert fs.exists(path)
    assert not fs.exists(path)
    fs.pipe_file(path, b"what somebody else put there")
    with Lease(fs, path, now=lambda: now[0]).held():
        assert fs.exists(path)


@pytest.mark.parametrize("url", ["nothing://bucket/models", "webhdfs-of-old://x"])
def test_a_url_that_no_driver_takes_is_refused_by_the_name_of_its_setting(url: str) -> None:
    with pytest.raises(MisconfiguredError, match="FORECOURT_MODELS is not a URL that fsspec has a driver for"):
        open_model_files(Settings(environment="demo", models=url))


def test_a_file_url_is_a_folder(tmp_path: Path) -> None:
    assert open_model_files(Settings(environment="demo", models=f"file://{tmp_path}/a%20b")) == tmp_path / "a b"
    assert open_model_files(Settings(environment="demo", models=tmp_path)) == tmp_path
