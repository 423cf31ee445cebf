"""The folder of models: verified reads, whole writes."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from backend.model_service.aliases import WeightedVersion
from backend.model_service.errors import ModelRefused
from backend.model_service.manifest import Manifest
from backend.model_service.repository import ModelRepository, version_order


@pytest.fixture
def repository(models: Path) -> ModelRepository:
    return ModelRepository(models)


@pytest.fixture
def manifest(repository: ModelRepository) -> Manifest:
    return repository.manifest("iris", "1")


def test_a_registered_artifact_is_read_with_its_digest_checked(repository: ModelRepository, manifest: Manifest) -> None:
    data = repository.artifact(manifest)
    assert hashlib.sha256(data).hexdigest() == manifest.sha256


def test_versions_are_ordered_as_numbers_newest_first(repository: ModelRepository, models: Path) -> None:
    for version in ("9", "10", "beta"):
        (models / "iris" / version).mkdir()
    assert repository.versions("iris") == ("10", "9", "2", "1", "beta")
    assert version_order("10") > version_order("9") > version_order("zeta")


def test_names_that_no_model_may_have_are_passed_over(repository: ModelRepository, models: Path) -> None:
    (models / ".git").mkdir()
    (models / "Upper").mkdir()
    (models / "README.md").write_text("not a model")
    assert repository.names() == ("forest", "iris")


def test_a_folder_that_does_not_exist_holds_no_models(tmp_path: Path) -> None:
    assert ModelRepository(tmp_path / "nowhere").names() == ()


def test_a_changed_byte_is_refused(repository: ModelRepository, manifest: Manifest, models: Path) -> None:
    path = models / "iris" / "1" / manifest.artifact
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ModelRefused, match="SHA-256"):
        repository.artifact(manifest)


def test_a_truncated_artifact_is_refused(repository: ModelRepository, manifest: Manifest, models: Path) -> None:
    path = models / "iris" / "1" / manifest.artifact
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelRefused, match="SHA-256"):
        repository.artifact(manifest)


def test_a_missing_artifact_or_manifest_is_refused(
    repository: ModelRepository, manifest: Manifest, models: Path
) -> None:
    (models / "iris" / "1" / manifest.artifact).unlink()
    with pytest.raises(ModelRefused, match="artifact is missing"):
        repository.artifact(manifest)
    (models / "iris" / "1" / "manifest.json").unlink()
    with pytest.raises(ModelRefused, match="manifest is missing"):
        repository.manifest("iris", "1")


def test_an_artifact_larger_than_allowed_is_not_read(manifest: Manifest, models: Path) -> None:
    with pytest.raises(ModelRefused, match="larger than 10 bytes"):
        ModelRepository(models, max_artifact_bytes=10).artifact(manifest)


def test_a_link_out_of_the_version_is_refused(
    repository: ModelRepository, manifest: Manifest, models: Path, tmp_path: Path
) -> None:
    path = models / "iris" / "1" / manifest.artifact
    outside = tmp_path / "outside.skops"
    path.rename(outside)
    path.symlink_to(outside)
    with pytest.raises(ModelRefused, match="not a file in the version's own folder"):
        repository.artifact(manifest)


def test_a_link_into_another_version_is_refused(repository: ModelRepository, manifest: Manifest, models: Path) -> None:
    path = models / "iris" / "1" / manifest.artifact
    path.unlink()
    path.symlink_to(models / "forest" / "1" / manifest.artifact)
    with pytest.raises(ModelRefused, match="not a file in the version's own folder"):
        repository.artifact(manifest)


def test_a_version_folder_linked_from_outside_the_root_is_refused(
    repository: ModelRepository, models: Path, tmp_path: Path
) -> None:
    (models / "iris" / "2").rename(tmp_path / "elsewhere")
    (models / "iris" / "2").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelRefused, match="not a file in the version's own folder"):
        repository.manifest("iris", "2")


def test_links_within_a_version_are_followed(repository: ModelRepository, manifest: Manifest, models: Path) -> None:
    # What a mounted volume looks like.
    folder = models / "iris" / "1"
    (folder / "..2026").mkdir()
    (folder / manifest.artifact).rename(folder / "..2026" / manifest.artifact)
    (folder / manifest.artifact).symlink_to(Path("..2026") / manifest.artifact)
    assert repository.artifact(manifest)


def test_a_loop_of_links_is_refused(repository: ModelRepository, manifest: Manifest, models: Path) -> None:
    path = models / "iris" / "1" / manifest.artifact
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(ModelRefused, match="cannot be read"):
        repository.artifact(manifest)


def test_a_manifest_in_another_versions_folder_is_refused(repository: ModelRepository, models: Path) -> None:
    (models / "iris" / "1").rename(models / "iris" / "3")
    with pytest.raises(ModelRefused, match="names another model or version"):
        repository.manifest("iris", "3")


def test_a_published_version_is_read_back(repository: ModelRepository, manifest: Manifest) -> None:
    newer = replace(manifest, version="3")
    repository.publish(newer, repository.artifact(manifest))
    assert repository.manifest("iris", "3") == newer
    assert repository.artifact(newer) == repository.artifact(manifest)


def test_a_version_that_exists_is_never_overwritten(
    repository: ModelRepository, manifest: Manifest, models: Path
) -> None:
    with pytest.raises(FileExistsError, match="iris has a version 1 already"):
        repository.publish(manifest, b"something else")
    assert repository.artifact(manifest)
    assert [path.name for path in (models / "iris").iterdir() if path.name.startswith(".")] == []


def test_a_half_written_version_is_not_seen(repository: ModelRepository, models: Path) -> None:
    (models / "iris" / ".incoming-x").mkdir()
    (models / "iris" / ".incoming-x" / "manifest.json").write_text("{")
    assert repository.versions("iris") == ("2", "1")


def test_an_alias_is_set_beside_the_others(repository: ModelRepository) -> None:
    assert repository.aliases("iris") == {}
    repository.set_alias("iris", "stable", [WeightedVersion("1", 1)])
    repository.set_alias("iris", "beta", [WeightedVersion("2", 1)])
    repository.set_alias("iris", "stable", [WeightedVersion("2", 1)])
    assert {alias: target[0].version for alias, target in repository.aliases("iris").items()} == {
        "beta": "2",
        "stable": "2",
    }


def test_damaged_aliases_are_refused(repository: ModelRepository, models: Path) -> None:
    (models / "iris" / "aliases.json").write_text("{")
    with pytest.raises(ModelRefused, match="aliases file"):
        repository.aliases("iris")
