"""Floor 5: puts the application together. Nothing is opened before the lifespan begins."""

import atexit
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.middleware.cors import CORSMiddleware

from backend import __version__
from backend.api.direct_predictions import Application, DirectPredictions
from backend.api.errors import install_error_handlers
from backend.api.middleware import BodyBounds, BodyGuard, RequestContext
from backend.api.openapi import build_openapi
from backend.api.router import include_routes
from backend.api.throttling import AddressThrottle
from backend.composition.server import open_resources
from backend.domain.clock import Clock
from backend.logs import start_logging
from backend.model_service.schema import input_schema, prediction_schema
from backend.settings import Settings

CORS_REQUEST_HEADERS = (
    "Authorization",
    "X-API-Key",
    "Content-Type",
    "Cache-Control",
    "Idempotency-Key",
    "X-Deadline-Ms",
    "X-Request-Id",
)
CORS_ANSWER_HEADERS = (
    "X-Request-Id",
    "X-Usage-Units",
    "Cache-Status",
    "Idempotency-Replayed",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "X-Quota-Limit",
    "X-Quota-Used",
    "X-Quota-Remaining",
    "X-Quota-Reset",
    "X-Usage-Watermark",
    "Location",
    "ETag",
    "Digest",
    "Content-Range",
)


def create_app(
    settings: Settings, *, clock: Clock | None = None, on_opened: Callable[[], None] = lambda: None
) -> FastAPI:
    """Return the application for some settings. Two of them may run in one process.

    Args:
        settings: what it runs on.
        clock: the time; by default the system's.
        on_opened: called once everything is opened, right before the first request is taken.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            app.state.resources = await open_resources(settings, stack, clock=clock)
            # FastAPI builds them when they are first asked for, which would be on the first caller's time.
            tuple(iter_route_contexts(app.routes))
            on_opened()
            yield
            front.access_log.flush()

    app = Application(
        title="Forecourt",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        # A redirect would lead to whatever the Host header says, and take the credential along.
        redirect_slashes=False,
        separate_input_output_schemas=False,
    )
    app.state.address_throttle = AddressThrottle(login_rate=settings.login_rate, anonymous_rate=settings.anonymous_rate)
    include_routes(app)
    install_error_handlers(app)
    # The last one added is the outermost.
    bounds = BodyBounds(limit_bytes=settings.body_limit_bytes, timeout_s=settings.body_timeout_s)
    app.add_middleware(BodyGuard, bounds=bounds)
    if settings.cors_origins:
        # No cookie is ever set, so no credentials are allowed along: a page sends its own Authorization header.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST", "PATCH", "PUT", "DELETE"),
            allow_headers=CORS_REQUEST_HEADERS,
            expose_headers=CORS_ANSWER_HEADERS,
            max_age=600,
        )
    app.add_middleware(RequestContext, trusted_proxies=settings.trusted_proxies)
    app.front = front = DirectPredictions(
        app,
        bounds=bounds,
        trusted_proxies=settings.trusted_proxies,
        is_called_by_pages=bool(settings.cors_origins),
    )
    app.openapi = _openapi_of(app)  # type: ignore[method-assign]
    return app


def _openapi_of(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """Describe the models that are loaded; before the lifespan there are none.

    Made when they change: it takes a quarter of a second, and anybody may ask for it.
    """
    described: tuple[tuple[str, str, str], ...] | None = None

    def openapi() -> dict[str, Any]:
        nonlocal described
        opened = hasattr(app.state, "resources")
        summaries = app.state.resources.catalog.list() if opened else ()
        defaults = tuple(
            info for summary in summaries for info in summary.versions if info.version == summary.default_version
        )
        versions = tuple((info.name, info.version, info.digest) for info in defaults)
        if described != versions or not app.openapi_schema:
            app.openapi_schema = build_openapi(app, defaults, input_schema, prediction_schema)
            described = versions
        return app.openapi_schema

    return openapi


def app_from_environment() -> FastAPI:
    """Return the application for the environment's settings; each server process calls this once."""
    settings = Settings()
    listener = start_logging(style=settings.log_format, level=settings.log_level)
    # Lines are written by a thread: let it finish before the process ends.
    atexit.register(listener.stop)
    return create_app(settings, on_opened=_keep_what_is_loaded)


def _keep_what_is_loaded() -> None:
    """Spare the collector from walking, again and again, what stays until the process ends.

    Of the process, not of the application: whoever runs several must be able to let go of one.
    """
    gc.collect()
    gc.freeze()
    # What requests make lives as long as they do, and is freed without the collector: by default it would walk it all
    # every few requests, a tenth of a prediction's time, to find nothing.
    gc.set_threshold(2_000, 20, 50)
