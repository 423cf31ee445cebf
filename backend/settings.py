"""Settings: what an operator may choose, from environment variables with the prefix ``FORECOURT_``.

There is no instance at import: whoever composes the application makes one. Outside demo mode a missing, short or
default secret is refused, so that no installation runs on a value that stands in a repository.
"""

import re
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

SECRET_MIN_CHARS = 32
_RATE = r"^[1-9]\d{0,6}/(second|minute|hour|day)$"
_WEAK = {"changeme", "change-me", "secret", "password", "forecourt", "default", "example"}


class Settings(BaseSettings):
    """Everything that can be configured. Names below are the environment variables' without the prefix."""

    # A refused value may be a secret that was put into the wrong variable: errors do not repeat it.
    model_config = SettingsConfigDict(env_prefix="FORECOURT_", frozen=True, extra="ignore", hide_input_in_errors=True)

    environment: Literal["demo", "production"] = Field(
        "production", description="`demo` makes its own secrets; `production` refuses weak or missing ones."
    )
    database_url: str = Field(
        "sqlite+aiosqlite:///var/forecourt.db",
        description="Store of record: `sqlite+aiosqlite:///…` or `postgresql+psycopg://…`.",
    )
    migration_database_url: str | None = Field(
        None, description="Login of the tables' owner for `forecourt migrate`, where it differs."
    )
    redis_url: str | None = Field(
        None,
        description=(
            "Shared admission, cache and idempotency: `redis://`, `rediss://` (TLS), `unix://`, "
            "`redis+sentinel://host:port,…/service`, `redis+cluster://host:port,…`. Unset: in-process, for one worker."
        ),
    )
    models: str | Path = Field(
        "var/models",
        description="Model repository: a folder, or a URL such as `s3://bucket/models` with the extra `s3`.",
    )
    models_cache: Path = Field(
        Path("var/models-cache"), description="Local folder that keeps the artifacts of a repository at a URL."
    )
    models_cache_bytes: int = Field(
        10 * 1024**3, ge=0, description="Most bytes kept there; the artifacts read longest ago go first. 0 keeps none."
    )
    allow_pickle_models: bool = Field(
        False, description="Load joblib and pickle artifacts, which can run code. Refused by default."
    )
    model_signing_keys: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Base64 Ed25519 public keys, with commas. Set: a model without a signature of one is refused.",
    )
    secret_key: SecretStr | None = Field(
        None,
        description="At least 32 characters. Seals signing keys and signs cursors. The same on every replica.",
    )
    key_peppers: Annotated[dict[int, SecretStr], NoDecode] = Field(
        default_factory=dict,
        description="Peppers of API key hashes, `1:secret,2:secret`; the highest number is used for new keys.",
    )
    public_url: str = Field("http://127.0.0.1:8000", description="Address that callers use.")
    token_issuer: str | None = Field(
        None, description="Issuer and audience of access tokens, the same on every replica; by default the public URL."
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on.")
    workers: int = Field(1, ge=1, le=64, description="Server processes; more than one needs Redis.")
    access_token_ttl_s: int = Field(900, ge=30, le=900, description="Lifetime of access tokens in seconds.")
    trusted_proxies: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = Field(
        (), description="Networks of the proxies in front, with commas; only they may say X-Forwarded-For."
    )
    outbound_allowed_networks: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = Field(
        (),
        description="Networks that webhooks may reach although they are not public, over plain HTTP too; with commas.",
    )
    biller_kind: Literal["stripe", "openmeter"] | None = Field(
        None, description="Outside biller that is told each tenant's month-to-date total. Unset: none."
    )
    biller_url: str | None = Field(None, description="Its address; by default Stripe's own.")
    biller_token: SecretStr | None = Field(None, description="Its secret key or token.")
    biller_meter: str = Field(
        "forecourt_units",
        min_length=1,
        max_length=100,
        description="Its meter's event name (Stripe) or event type (OpenMeter); the meter takes the last value.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Origins whose pages may call the API from a browser, with commas; exact, never `*`."
    )
    sign_up: bool = Field(False, description="Whether strangers may sign up and get a tenant of their own.")
    sign_up_plan: str = Field("free", description="Plan of a tenant that signed up.")
    login_rate: Annotated[str, Field(pattern=_RATE)] = Field(
        "300/minute", description="Token requests from one address: `<number>/second|minute|hour|day`."
    )
    anonymous_rate: Annotated[str, Field(pattern=_RATE)] = Field(
        "30/minute", description="Sign-ups, confirmations, acceptances and password resets from one address, each."
    )
    unknown_key_rate: int = Field(
        100, ge=1, description="Unknown API keys from one address each minute before it is made to wait."
    )
    mail_folder: Path = Field(Path("var/mail"), description="Where messages are written while no mail server is set.")
    smtp_url: SecretStr | None = Field(
        None, description="Mail server, `smtp://user:password@host:port` or `smtps://…`. Unset: files."
    )
    mail_from: str = Field("forecourt@localhost", description="Address that messages come from.")
    password_grant: bool = Field(True, description="Whether `grant_type=password` is offered.")
    database_pool_size: int = Field(10, ge=2, le=100, description="Database connections of each process.")
    database_timeout_s: float = Field(2.0, gt=0, le=30, description="Bound on each wait for the database.")
    redis_timeout_s: float = Field(0.1, gt=0, le=5, description="Bound on each wait for Redis.")
    replicas: int = Field(
        1, ge=1, le=1000, description="Servers that share the limits. Without Redis each holds its part of them."
    )
    spill_limit: int = Field(
        500_000,
        ge=0,
        description="Most usage events kept in Redis while the database is down, half a kilobyte each; then 503.",
    )
    period_grace_s: float = Field(
        3600.0, ge=60, description="How long after a month's end it may be closed, and servers' clocks may differ."
    )
    usage_retention_months: int | None = Field(
        None,
        ge=2,
        le=1200,
        description="Whole months before this one whose usage events are kept; older ones go once the month is closed "
        "for every tenant and rolled up. Totals and statements stay. Unset: all are kept.",
    )
    body_limit_bytes: int = Field(4 * 1024 * 1024, ge=1024, description="Longest request body.")
    body_timeout_s: float = Field(15.0, gt=0, description="How long a request body may take to arrive.")
    max_rows: int = Field(1000, ge=1, le=100_000, description="Most rows of one prediction request.")
    cache_bytes: int = Field(64 * 1024 * 1024, ge=0, description="Size of the in-process response cache.")
    cache_ttl_s: float = Field(300.0, gt=0, description="How long a cached row may be served.")
    key_cache_ttl_s: float = Field(
        30.0, gt=0, le=300, description="How long an API key is served from memory without asking the store."
    )
    jobs: Literal["inside", "worker"] = Field(
        "inside", description="Where periodic jobs run: in every server, or only in `forecourt worker`."
    )
    stale_key_window_s: float = Field(
        300.0, ge=0, le=3600, description="How much longer while the database does not answer; then 503."
    )
    shutdown_grace_s: float = Field(20.0, gt=0, description="Bound on finishing what was accepted.")
    metrics_host: str = Field("127.0.0.1", description="Address of the metrics' own port.")
    metrics_port: int | None = Field(
        None, ge=0, le=65535, description="Port of `/metrics`; each further worker takes the next. Unset: not shown."
    )
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="`auto`: readable on a terminal, JSON elsewhere."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severity logged.")

    @field_validator("smtp_url", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        """Compose files can only hand an empty text on, not leave a variable out."""
        return None if value == "" else value

    @field_validator("key_peppers", mode="before")
    @classmethod
    def _read_peppers(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [part.split(":", 1) for part in value.split(",") if part.strip()]
        try:
            peppers = {int(version): pepper.strip() for version, pepper in pairs}
        except ValueError:
            raise ValueError("write peppers as 1:secret,2:secret") from None
        if len(peppers) < len(pairs):
            raise ValueError("a pepper's version stands there twice; keys made under the other one would be lost")
        return peppers

    @field_validator(
        "trusted_proxies", "outbound_allowed_networks", "cors_origins", "model_signing_keys", mode="before"
    )
    @classmethod
    def _read_list(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("cors_origins")
    @classmethod
    def _refuse_wild_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if not re.fullmatch(r"https?://[^\s/*@]+", origin):
                raise ValueError("write origins as https://host[:port], without a path and without *")
        return origins

    @model_validator(mode="after")
    def _refuse_weak_secrets(self) -> Self:
        secrets = {"FORECOURT_SECRET_KEY": self.secret_key}
        secrets |= {f"FORECOURT_KEY_PEPPERS[{version}]": pepper for version, pepper in self.key_peppers.items()}
        if self.environment == "production" and not self.key_peppers:
            raise ValueError("FORECOURT_KEY_PEPPERS is not set")
        for name, secret in secrets.items():
            if secret is None:
                if self.environment == "production":
                    raise ValueError(f"{name} is not set")
                continue
            text = secret.get_secret_value()
            if len(text) < SECRET_MIN_CHARS:
                raise ValueError(f"{name} must have at least {SECRET_MIN_CHARS} characters")
            if len(set(text)) < 8 or any(word in text.lower() for word in _WEAK):  # noqa: PLR2004
                raise ValueError(f"{name} is a guessable value")
        return self

    @model_validator(mode="after")
    def _refuse_unshared_limits(self) -> Self:
        if self.workers > 1 and self.redis_url is None:
            raise ValueError(
                "more than one worker needs FORECOURT_REDIS_URL: in-process limits would not hold across processes"
            )
        return self

    @property
    def migration_url(self) -> str:
        """The database URL that migrations use."""
        return self.migration_database_url or self.database_url

    @property
    def issuer(self) -> str:
        """Issuer and audience of access tokens."""
        return self.token_issuer or self.public_url
