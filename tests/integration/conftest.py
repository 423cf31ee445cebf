"""Places for server processes, on SQLite and on PostgreSQL."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.databases import postgres_database
from tests.integration.forecourt_process import Site, new_site
from tests.model_cache import cached_demo_models
from tests.redis_client import fresh_redis

NewSite = Callable[..., Site]


@pytest.fixture(scope="session")
def models_root() -> Path:
    """The demo models, trained once. Copy the folder before you change anything in it."""
    return cached_demo_models()


@pytest.fixture
def make_site(tmp_path_factory: pytest.TempPathFactory, models_root: Path) -> Iterator[NewSite]:
    """Makes sites whose models need no training; settings are environment variables without their prefix."""
    with ExitStack() as sites:

        def make(**settings: str) -> Site:
            folder = tmp_path_factory.mktemp("site")
            return sites.enter_context(new_site(folder, **{"MODELS": str(models_root), **settings}))

        yield make


@pytest.fixture(params=["sqlite", "postgres"])
def database_settings(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Settings of a fresh database of either kind; a site's own SQLite file needs none."""
    if request.param == "sqlite":
        yield {}
        return
    with postgres_database(request.getfixturevalue("postgres_url"), is_migrated=True) as url:
        yield {"DATABASE_URL": url}


@pytest.fixture
def shared_settings(postgres_url: str, redis_url: str) -> Iterator[dict[str, str]]:
    """Settings of the server shape: PostgreSQL and Redis, which several processes share."""
    with postgres_database(postgres_url, is_migrated=True) as url:
        yield {"DATABASE_URL": url, "REDIS_URL": fresh_redis(redis_url), "REDIS_TIMEOUT_S": "2"}
