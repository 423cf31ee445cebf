"""The model repository: a folder, or the store behind a URL."""

from importlib import import_module
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from backend.composition.misconfigured import MisconfiguredError
from backend.services.ports.model_files import ModelFiles
from backend.settings import Settings

_FILES_AT_URLS: Final = "backend.adapters.fsspec"


def open_model_files(settings: Settings) -> Path | ModelFiles:
    """Return where models are kept; nothing is asked of it yet.

    Raises:
        MisconfiguredError: it is a URL that no driver takes, or the driver is not installed.
    """
    url = str(settings.models)
    if "://" not in url:
        return Path(url)
    if urlsplit(url).scheme == "file":
        return Path(unquote(urlsplit(url).path))
    try:
        # By name, because its libraries take a second to import and a folder needs none of them.
        at_urls = import_module(_FILES_AT_URLS)
    except ImportError as error:
        raise MisconfiguredError("FORECOURT_MODELS is a URL: pip install 'forecourt[s3]'") from error
    try:
        files: ModelFiles = at_urls.open_url(url, settings.models_cache, settings.models_cache_bytes)
    except ValueError as error:
        raise MisconfiguredError(f"FORECOURT_MODELS {error}") from error
    return files
