"""Settings: what an operator may choose, and what the service refuses to start with (SECURITY.md J6)."""

import os
from ipaddress import ip_network
from typing import Any

import pytest
from pydantic import ValidationError

from backend.settings import SECRET_MIN_CHARS, Settings

SECRET = "k3-9Xq_Zt7Lw2Vb8Nd4Rf6Hj1Mc5Ps0GyQe"
PEPPER = "Tn5-Wc8_Kv1Jb4Xr7Zm2Qh9Ld6Fs3GpYuAe"
ENOUGH: dict[str, Any] = {"secret_key": SECRET, "key_peppers": f"1:{PEPPER}"}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("FORECOURT_"):
            monkeypatch.delenv(name)


def refusal(**settings: Any) -> str:
    with pytest.raises(ValidationError) as refused:
        Settings(**settings)
    return str(refused.value)


# Secrets


def test_j6_production_starts_with_two_good_secrets() -> None:
    settings = Settings(**ENOUGH)
    assert settings.environment == "production", "nothing has to be said for the strict mode"
    assert settings.secret_key is not None
    assert settings.secret_key.get_secret_value() == SECRET


@pytest.mark.parametrize(("missing", "named"), [("secret_key", "SECRET_KEY"), ("key_peppers", "KEY_PEPPERS")])
def test_j6_production_refuses_a_missing_secret(missing: str, named: str) -> None:
    message = refusal(**{name: value for name, value in ENOUGH.items() if name != missing})
    assert f"FORECOURT_{named} is not set" in message


@pytest.mark.parametrize("environment", ["production", "demo"])
@pytest.mark.parametrize(
    "weak",
    [
        "",
        "short",
        SECRET[: SECRET_MIN_CHARS - 1],
        "a" * 40,
        "abcabcab" * 5,
        "changeme" + SECRET,
        SECRET + "-CHANGE-ME",
        f"{SECRET}Password",
        "default" + SECRET,
        "forecourt" + SECRET,
        "my-secret-" + SECRET,
    ],
)
def test_j6_a_short_guessable_or_default_secret_is_refused_wherever_it_stands(environment: str, weak: str) -> None:
    good = {"environment": environment, **ENOUGH}
    assert "FORECOURT_SECRET_KEY" in refusal(**good | {"secret_key": weak})
    assert "FORECOURT_KEY_PEPPERS[2]" in refusal(**good | {"key_peppers": f"1:{PEPPER},2:{weak}"})


def test_a_secret_just_long_enough_is_accepted() -> None:
    Settings(**ENOUGH | {"secret_key": SECRET[:SECRET_MIN_CHARS]})
    assert SECRET_MIN_CHARS >= 32


def test_j6_demo_mode_may_begin_without_secrets() -> None:
    settings = Settings(environment="demo")
    assert settings.secret_key is None
    assert settings.key_peppers == {}


def test_k3_neither_the_settings_nor_a_refusal_shows_a_secret() -> None:
    assert SECRET not in repr(Settings(**ENOUGH))
    assert PEPPER not in repr(Settings(**ENOUGH))
    for wrong in (
        {"port": "many"},
        {"workers": 2},
        {"key_peppers": f"1:{PEPPER},2:short"},
        {"key_peppers": PEPPER},
        {"database_pool_size": SECRET},
    ):
        message = refusal(**ENOUGH | wrong)
        assert SECRET not in message
        assert PEPPER not in message


# Peppers


def test_peppers_are_read_by_their_version() -> None:
    settings = Settings(**ENOUGH | {"key_peppers": f" 1:{PEPPER} , 10:{SECRET}:with:colons ,"})
    assert {version: pepper.get_secret_value() for version, pepper in settings.key_peppers.items()} == {
        1: PEPPER,
        10: f"{SECRET}:with:colons",
    }


@pytest.mark.parametrize("peppers", [PEPPER, f"one:{PEPPER}", f"1:{PEPPER},{SECRET}", f":{PEPPER}", "1"])
def test_peppers_in_another_form_are_refused_with_the_right_one(peppers: str) -> None:
    assert "1:secret,2:secret" in refusal(**ENOUGH | {"key_peppers": peppers})


def test_k10_a_pepper_version_that_stands_twice_is_refused() -> None:
    assert "twice" in refusal(**ENOUGH | {"key_peppers": f"1:{PEPPER},1:{SECRET}"})


# Everything else


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "many"),
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("WORKERS", "0"),
        ("ENVIRONMENT", "staging"),
        ("ACCESS_TOKEN_TTL_S", "901"),
        ("ACCESS_TOKEN_TTL_S", "forever"),
        ("TRUSTED_PROXIES", "10.0.0.0/33"),
        ("TRUSTED_PROXIES", "everyone"),
        ("CORS_ORIGINS", "*"),
        ("PASSWORD_GRANT", "perhaps"),
        ("DATABASE_TIMEOUT_S", "0"),
        ("REDIS_TIMEOUT_S", "-1"),
        ("BODY_LIMIT_BYTES", "10"),
        ("MAX_ROWS", "0"),
        ("KEY_CACHE_TTL_S", "301"),
        ("LOG_FORMAT", "xml"),
        ("LOG_LEVEL", "loud"),
    ],
)
def test_a_bad_value_is_refused_by_the_name_of_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"FORECOURT_{name}", value)
    with pytest.raises(ValidationError) as refused:
        Settings(**ENOUGH)
    assert refused.value.errors()[0]["loc"][0] == name.lower()


def test_j9_no_access_token_may_live_longer_than_a_quarter_of_an_hour() -> None:
    assert Settings(**ENOUGH).access_token_ttl_s <= 900
    assert Settings(**ENOUGH, access_token_ttl_s=30).access_token_ttl_s == 30


def test_several_workers_need_redis() -> None:
    assert "FORECOURT_REDIS_URL" in refusal(**ENOUGH, workers=2)
    assert Settings(**ENOUGH, workers=2, redis_url="redis://127.0.0.1:6379/0").workers == 2


def test_values_come_from_the_environment_and_others_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORECOURT_PORT", "9000")
    monkeypatch.setenv("FORECOURT_TRUSTED_PROXIES", "10.0.0.0/8, 2001:db8::/32,")
    monkeypatch.setenv("FORECOURT_NOBODY_KNOWS_THIS", "x")
    monkeypatch.setenv("PORT", "1")
    settings = Settings(**ENOUGH)
    assert settings.port == 9000
    assert settings.trusted_proxies == (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"))


def test_settings_do_not_change() -> None:
    settings = Settings(**ENOUGH)
    with pytest.raises(ValidationError):
        settings.port = 1  # type: ignore[misc]  # that is the point


def test_the_issuer_and_the_migrations_login_default_to_what_is_there() -> None:
    plain = Settings(**ENOUGH, public_url="https://api.example", database_url="sqlite+aiosqlite:///a.db")
    assert (plain.issuer, plain.migration_url) == ("https://api.example", "sqlite+aiosqlite:///a.db")
    named = Settings(
        **ENOUGH, token_issuer="https://id.example", migration_database_url="postgresql+psycopg://owner@db/forecourt"
    )
    assert (named.issuer, named.migration_url) == (
        "https://id.example",
        "postgresql+psycopg://owner@db/forecourt",
    )


def test_every_setting_says_what_it_is() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.rstrip().endswith("."), name
