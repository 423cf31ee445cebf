"""Model repositories at URLs, through fsspec. The extra `s3` installs it, with the driver for S3."""

from pathlib import Path

from backend.adapters.fsspec.artifact_cache import ArtifactCache
from backend.adapters.fsspec.model_files import FsspecModelFiles
from backend.services.ports.model_files import ModelFiles


def open_url(url: str, cache_folder: Path, cache_bytes: int) -> ModelFiles:
    """Take a URL; nothing is asked of its store yet.

    Raises:
        UnusableModelsUrl: there is no driver for it, or it is not installed.
    """
    return FsspecModelFiles.open(url, ArtifactCache(cache_folder, cache_bytes))
