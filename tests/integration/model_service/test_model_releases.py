"""What another release of scikit-learn fitted is refused: by what its manifest says, and by what its estimators say."""

import io
import shutil
from hashlib import sha256
from importlib.metadata import version as library_version
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile

import numpy as np
import orjson
import pytest
from sklearn.linear_model import LinearRegression

from backend.domain.models import ModelRef
from backend.model_service import ModelService, RegistrationError, register
from backend.model_service.artifacts import dump_artifact, load_artifact
from backend.model_service.errors import ModelRefused
from backend.model_service.manifest import ArtifactFormat

pytestmark = pytest.mark.anyio

HERE = library_version("scikit-learn")
MINOR = ".".join(HERE.split(".")[:2])
OLDER = "0" + HERE[1:]  # as long, so that it fits where the other stood
PATCH = HERE[:-1] + ("8" if HERE[-1] != "8" else "7")


def says(what: str, version: str) -> str:
    return (
        f"{what} scikit-learn {version}, and {HERE} is installed here, which may answer differently. "
        "Fit it anew and register that."
    )


def written_by(version: str, artifact_format: ArtifactFormat) -> bytes:
    """A fitted model as another release would have left it."""
    assert len(version) == len(HERE)
    data = np.arange(30.0).reshape(10, 3)
    artifact = dump_artifact(LinearRegression().fit(data, data.sum(axis=1)), artifact_format)
    if artifact_format is ArtifactFormat.JOBLIB:
        assert HERE.encode() in artifact
        return artifact.replace(HERE.encode(), version.encode())
    rewritten = io.BytesIO()
    with ZipFile(io.BytesIO(artifact)) as source, ZipFile(rewritten, "w", ZIP_STORED) as target:
        assert HERE.encode() in source.read("schema.json")
        for entry in source.namelist():
            target.writestr(entry, source.read(entry).replace(HERE.encode(), version.encode()))
    return rewritten.getvalue()


def copy_registered_with(root: Path, release: str | None, version: str) -> None:
    """Publish a copy of a version that says that it was registered with another release."""
    folder = root / "iris" / version
    shutil.copytree(root / "iris" / "1", folder)
    document = orjson.loads((folder / "manifest.json").read_bytes()) | {"version": version}
    del document["library_versions"]["scikit-learn"]
    if release is not None:
        document["library_versions"]["scikit-learn"] = release
    (folder / "manifest.json").write_bytes(orjson.dumps(document))


async def test_a_version_of_another_release_is_refused_at_the_start_and_while_serving(models: Path) -> None:
    copy_registered_with(models, "1.2.2", "3")
    copy_registered_with(models, PATCH, "4")
    service = await ModelService.open(models)
    copy_registered_with(models, "99.0.0", "5")
    copy_registered_with(models, None, "6")
    await service.refresh()
    (_, iris) = service.list()
    assert iris.failed == {
        "3": says("The version was registered with", "1.2.2"),
        "5": says("The version was registered with", "99.0.0"),
        "6": "The manifest does not say which scikit-learn it was registered with.",
    }
    # A patch release only repairs.
    assert service.resolve(ModelRef.parse("iris")).info.version == "4"
    await service.aclose()


async def test_a_manifest_does_not_vouch_for_what_its_artifact_denies(models: Path) -> None:
    folder = models / "iris" / "2"
    (folder / "model.skops").write_bytes(written_by(OLDER, ArtifactFormat.SKOPS))
    document = orjson.loads((folder / "manifest.json").read_bytes())
    document["sha256"] = sha256((folder / "model.skops").read_bytes()).hexdigest()
    (folder / "manifest.json").write_bytes(orjson.dumps(document))
    service = await ModelService.open(models)
    assert service.list()[1].failed == {"2": says("The artifact was written by", OLDER)}
    assert service.resolve(ModelRef.parse("iris")).info.version == "1"
    await service.aclose()


@pytest.mark.parametrize("artifact_format", ArtifactFormat)
def test_it_is_not_registered_either(tmp_path: Path, iris_sample: Path, artifact_format: ArtifactFormat) -> None:
    # Written anew it would say that this release had fitted it.
    pipeline = tmp_path / f"model.{artifact_format}"
    pipeline.write_bytes(written_by(OLDER, artifact_format))
    with pytest.raises(RegistrationError) as caught:
        register(tmp_path / "models", pipeline, name="sums", sample=iris_sample, allow_pickle=True)
    assert str(caught.value) == says("The artifact was written by", OLDER)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("artifact_format", ArtifactFormat)
def test_a_patch_release_is_read_without_a_warning(artifact_format: ArtifactFormat) -> None:
    model = load_artifact(written_by(PATCH, artifact_format), artifact_format, allow_pickle=True)
    assert model.predict([[1.0, 2.0, 3.0]]) == pytest.approx([6.0])


def test_what_a_file_says_is_not_repeated_where_it_is_no_version(tmp_path: Path) -> None:
    data = written_by("<b>xy"[: len(HERE)].ljust(len(HERE), "!"), ArtifactFormat.JOBLIB)
    with pytest.raises(ModelRefused) as caught:
        load_artifact(data, ArtifactFormat.JOBLIB, allow_pickle=True)
    assert "<b>" not in caught.value.reason
    assert "of another release" in caught.value.reason
