"""Files of models: a folder, fsspec's memory, and S3's protocol keep what the port promises."""

import errno
import os
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import pytest

from backend.adapters.fsspec import open_url
from backend.model_service.local_files import LocalModelFiles
from backend.services.ports import ModelFiles
from tests.s3_server import BUCKET, S3Server, s3_server

LIMIT = 1_000
VERSION = [("model.bin", b"0123456789"), ("manifest.json", b"{}")]


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(params=["folder", "memory", "s3"])
def files(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelFiles:
    if request.param == "folder":
        return LocalModelFiles(tmp_path / "models")
    if request.param == "memory":
        return open_url(f"memory://{uuid4().hex}/models", tmp_path / "cache", LIMIT)
    server: S3Server = request.getfixturevalue("s3")
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    return open_url(f"s3://{BUCKET}/{uuid4().hex}", tmp_path / "cache", LIMIT)


def test_there_is_nothing_at_first(files: ModelFiles) -> None:
    assert list(files.models()) == list(files.look().versions("iris")) == []
    assert files.marks("iris", "1") == frozenset()


def test_a_version_is_added_read_and_removed(files: ModelFiles) -> None:
    files.add("iris", "1", VERSION)
    files.add("iris", "2", VERSION)
    for each in (files, files.look()):
        assert list(each.models()) == ["iris"]
        assert sorted(each.versions("iris")) == ["1", "2"]
        assert each.read("iris", "1", "model.bin", limit_bytes=10) == b"0123456789"
    files.require_readable()
    files.remove("iris", "1")
    assert list(files.look().versions("iris")) == ["2"]


def test_what_is_there_is_never_added_again(files: ModelFiles) -> None:
    files.add("iris", "1", VERSION)
    with pytest.raises(FileExistsError):
        files.add("iris", "1", [("model.bin", b"other"), ("manifest.json", b"{}")])
    assert files.read("iris", "1", "model.bin", limit_bytes=LIMIT) == b"0123456789"
    assert list(files.look().versions("iris")) == ["1"]


def test_of_several_who_add_the_same_version_one_does(files: ModelFiles) -> None:
    start, outcomes = threading.Barrier(4), []

    def add(own: bytes) -> None:
        start.wait()
        try:
            files.add("iris", "1", [("model.bin", own), ("manifest.json", own)])
            outcomes.append(own)
        except FileExistsError:
            pass

    threads = [threading.Thread(target=add, args=(bytes([65 + number]),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 1
    read = [files.read("iris", "1", name, limit_bytes=LIMIT) for name in ("model.bin", "manifest.json")]
    assert read == [outcomes[0]] * 2


def test_a_look_reads_small_files_as_they_are_and_marks_tell_of_a_change(files: ModelFiles) -> None:
    files.add("iris", "1", VERSION)
    with files.changing("iris"):
        files.replace("iris", "aliases.json", data=b'{"stable": "1"}')
    before = files.look().marks("iris", "1")
    assert files.look().read("iris", "aliases.json", limit_bytes=LIMIT) == b'{"stable": "1"}'
    assert files.look().marks("iris", "1") == before
    files.replace("iris", "aliases.json", data=b"{}")
    files.replace("iris", "1", "manifest.sig", data=b"signature")
    assert files.look().read("iris", "aliases.json", limit_bytes=LIMIT) == b"{}"
    assert files.look().marks("iris", "1") != before


def test_a_file_that_is_missing_or_too_large_is_told(files: ModelFiles) -> None:
    files.add("iris", "1", VERSION)
    for each in (files, files.look()):
        with pytest.raises(FileNotFoundError):
            each.read("iris", "1", "other", limit_bytes=LIMIT)
        with pytest.raises(FileNotFoundError):
            each.read("iris", "aliases.json", limit_bytes=LIMIT)
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            each.read("iris", "1", "model.bin", limit_bytes=9)


def test_changes_of_one_model_wait_for_each_other(files: ModelFiles) -> None:
    files.add("iris", "1", VERSION)
    files.replace("iris", "count.json", data=b"0")

    def count() -> None:
        for _ in range(3):
            with files.changing("iris"):
                found = int(files.read("iris", "count.json", limit_bytes=LIMIT))
                files.replace("iris", "count.json", data=str(found + 1).encode())

    threads = [threading.Thread(target=count) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert files.read("iris", "count.json", limit_bytes=LIMIT) == b"9"
    assert list(files.models()) == ["iris"]


def test_a_copy_with_the_digest_may_stand_in_and_a_wrong_digest_does_not(files: ModelFiles) -> None:
    files.add("iris", "1", VERSION)
    right, wrong = (sha256(data).hexdigest() for data in (b"0123456789", b"other"))
    for digest in (right, right, wrong, wrong):
        assert files.read("iris", "1", "model.bin", limit_bytes=LIMIT, sha256=digest) == b"0123456789"
