"""The demo models, trained once for all runs that use the same code and the same libraries."""

import fcntl
import hashlib
import shutil
import tempfile
from pathlib import Path

from backend.demo.models import train_demo_models

PROJECT = Path(__file__).resolve().parents[1]
SOURCES = (PROJECT / "backend" / "demo" / "models.py", PROJECT / "requirements" / "runtime.lock")


def cached_demo_models() -> Path:
    """Return a folder with the demo models. Copy it before you change anything in it."""
    digest = hashlib.sha256()
    for source in (*SOURCES, *sorted((PROJECT / "backend" / "model_service").rglob("*.py"))):
        digest.update(source.read_bytes())
    cache = PROJECT / "var" / "test-models"
    cache.mkdir(parents=True, exist_ok=True)
    wanted = cache / digest.hexdigest()[:16]
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not wanted.exists():
            with tempfile.TemporaryDirectory(dir=cache) as workshop:
                made = Path(workshop) / "models"
                train_demo_models(made, Path(workshop) / "training", lambda _: None)
                for old in cache.iterdir():
                    if old.is_dir() and old != Path(workshop):
                        shutil.rmtree(old)
                made.rename(wanted)
    return wanted
