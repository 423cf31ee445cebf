"""Everything a demo start does before it serves, one start at a time."""

import asyncio
import fcntl
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

from backend import demo
from backend.adapters.crypto.cursors import HmacCursors
from backend.adapters.crypto.passwords import Argon2Passwords
from backend.adapters.db.migrations import upgrade
from backend.composition import load_signing_keys, open_key_hasher, open_shared, secret_of
from backend.composition.models import open_model_files
from backend.demo.accounts import Tools, ensure_accounts, write_private
from backend.domain.clock import SystemClock
from backend.model_service.repository import ModelRepository
from backend.settings import Settings

DEMO_FILE = "demo.json"
SECRETS_FILE = "demo-secrets.json"


def prepare_environment(folder: Path, base_url: str) -> None:
    """Fill in what the operator left unset: secrets of this folder's own, and where state lies.

    The environment is the one thing that server processes inherit, so that is where the values go.
    """
    os.environ.setdefault("FORECOURT_ENVIRONMENT", "demo")
    os.environ.setdefault("FORECOURT_PUBLIC_URL", base_url)
    os.environ.setdefault("FORECOURT_DATABASE_URL", f"sqlite+aiosqlite:///{folder / 'forecourt.db'}")
    os.environ.setdefault("FORECOURT_MODELS", str(folder / "models"))
    os.environ.setdefault("FORECOURT_MAIL_FOLDER", str(folder / "mail"))
    made = _own_secrets(folder / SECRETS_FILE, base_url)
    os.environ.setdefault("FORECOURT_SECRET_KEY", made["secret_key"])
    os.environ.setdefault("FORECOURT_KEY_PEPPERS", made["key_peppers"])
    if os.environ.get("FORECOURT_REDIS_URL"):
        # Several starts share everything then, and a token of one has to be good at the others.
        os.environ.setdefault("FORECOURT_TOKEN_ISSUER", made["token_issuer"])


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold off other starts from the same folder until this one has set everything up."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".setup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def set_up(settings: Settings, folder: Path, base_url: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Migrate, make the accounts, train what is missing; return the content of ``demo.json``.

    Training takes longest, so it comes last: settings that do not fit are refused before it.
    """
    files = open_model_files(settings)
    before, after = upgrade(settings.migration_url)
    say(f"database at revision {after}" if before == after else f"database migrated to revision {after}")
    path = folder / DEMO_FILE
    known = json.loads(path.read_text()) if path.exists() else {}
    content = asyncio.run(_make_accounts(settings, known, base_url))
    write_private(path, content)
    if not all(ModelRepository(files).versions(name) for name in demo.MODELS):
        demo.train_demo_models(files, folder / "training", say)
    return content


async def _make_accounts(settings: Settings, known: dict[str, Any], base_url: str) -> dict[str, Any]:
    passwords = Argon2Passwords()
    async with AsyncExitStack() as stack:
        stack.callback(passwords.close)
        shared = await open_shared(settings, stack, SystemClock())
        # Whoever holds another secret must not change a password before it turns out.
        await load_signing_keys(shared.database, secret_of(settings), shared.clock)
        tools = Tools(
            passwords=passwords,
            key_hasher=open_key_hasher(settings),
            cursors=HmacCursors(secret_of(settings)),
        )
        return await ensure_accounts(shared, tools, known, base_url)


def _own_secrets(path: Path, base_url: str) -> dict[str, str]:
    if path.exists():
        stored: dict[str, str] = json.loads(path.read_text())
        return stored
    made = {
        "secret_key": secrets.token_urlsafe(48),
        "key_peppers": f"1:{secrets.token_urlsafe(48)}",
        "token_issuer": base_url,
    }
    write_private(path, made)
    return made
