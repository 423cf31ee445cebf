"""Which libraries a version was made with, and whether those here may read it.

scikit-learn promises nothing of a fitted model that another release of it reads: attributes change their meaning, and
the model goes on with other answers. So one of another minor release, older or newer, is refused, by what its manifest
says before the artifact is read, and by what each estimator says of itself while it is. A patch release only repairs.

The other libraries are recorded and not compared: what treelite or onnxruntime makes of a model is compared with
scikit-learn's own answers at each load (:mod:`backend.model_service.rebuilt`), and numbers are numbers to any numpy.
"""

import platform
import re
from importlib.metadata import version as library_version
from typing import Final

from backend.model_service.errors import ModelRefused
from backend.model_service.manifest import Manifest, RunnerChoice

_SCIKIT_LEARN: Final = "scikit-learn"
_LIBRARIES: Final = (_SCIKIT_LEARN, "skops", "numpy", "pandas", "treelite")
_OF_THE_EXTRA: Final = ("skl2onnx", "onnxruntime")


def library_versions(runner: RunnerChoice) -> dict[str, str]:
    """Return what a manifest records of the libraries that are installed here."""
    names = _LIBRARIES if runner.artifact is None else (*_LIBRARIES, *_OF_THE_EXTRA)
    return {"python": platform.python_version(), **{name: library_version(name) for name in names}}


def check_libraries(manifest: Manifest) -> None:
    """Compare what a manifest records with what is installed here.

    Raises:
        ModelRefused: it was registered with another release of scikit-learn, or does not say with which.
    """
    recorded = manifest.library_versions.get(_SCIKIT_LEARN)
    if recorded is None:
        raise ModelRefused("The manifest does not say which scikit-learn it was registered with.")
    if release_of(recorded) != release_of(library_version(_SCIKIT_LEARN)):
        raise ModelRefused(of_another_release("The version was registered with", recorded))


def release_of(version: str) -> str:
    """Return the minor release that a version is of: of 1.9.1, 1.9."""
    return ".".join(version.split(".")[:2])


def of_another_release(what: str, version: str) -> str:
    """Say why something is refused; ``version`` may be any text."""
    shown = version if re.fullmatch(r"[\w.+-]{1,32}", version) else "of another release"
    return (
        f"{what} scikit-learn {shown}, and {library_version(_SCIKIT_LEARN)} is installed here, "
        "which may answer differently. Fit it anew and register that."
    )
