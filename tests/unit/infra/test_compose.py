"""What can be known of the compose file without an engine to run it."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from backend.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text()
DOCKERFILE_TEXT = (ROOT / "infra" / "Dockerfile").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE_TEXT)["services"]
OURS = ("migrate", "models", "api", "worker")
ONE_SHOT = ("migrate", "models")
SECRETS = {
    "POSTGRES_OWNER_PASSWORD": "Qw7-owner_Xk2pLm9",
    "POSTGRES_APP_PASSWORD": "Zr4-service_Vt8nHc3",
    "FORECOURT_SECRET_KEY": "vN3kQ8xT1mB6zR9wL2cF7hJ4pD5sG0yA",
    "FORECOURT_KEY_PEPPERS": "1:aK9dL2mX7qW4vB8nR3tY6uJ1hG5fC0zE",
}

each_service = pytest.mark.parametrize("service", sorted(SERVICES))
each_of_ours = pytest.mark.parametrize("service", OURS)


def example_variables() -> dict[str, str]:
    """Read .env.example."""
    lines = (ROOT / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def interpolated(text: str, values: Mapping[str, str]) -> str:
    """Put the values where compose would; an empty one that is required is refused."""

    def value_of(match: re.Match[str]) -> str:
        name, otherwise, rest = match["name"], match["otherwise"], match["rest"]
        if values.get(name):
            return values[name]
        assert otherwise == ":-", f"{name}: {rest}"
        return rest

    return re.sub(r"\$\{(?P<name>\w+)(?P<otherwise>:[-?])?(?P<rest>[^}]*)\}", value_of, text)


def environment_of(service: str) -> dict[str, str]:
    """Return what a service of ours is started with, once .env is filled in."""
    values = example_variables() | SECRETS
    return {name: interpolated(text, values) for name, text in SERVICES[service]["environment"].items()}


def settings_of(service: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Make the settings that a service would start with."""
    for name in [name for name in os.environ if name.startswith("FORECOURT_")]:
        monkeypatch.delenv(name)
    for name, value in environment_of(service).items():
        monkeypatch.setenv(name, value)
    return Settings()


def compose_client() -> list[str] | None:
    """Return the command of a working compose client, if there is one here."""
    command = [shutil.which("docker") or "", "compose"]
    if not command[0]:
        return None
    works = subprocess.run([*command, "version"], check=False, capture_output=True).returncode == 0
    return command if works else None


# The compose file


def test_a_compose_client_or_the_yaml_parser_accepts_the_file(tmp_path: Path) -> None:
    client = compose_client()
    if client is None:
        assert set(yaml.safe_load(COMPOSE_TEXT)) == {
            "name", "services", "networks", "volumes", "x-hardened", "x-forecourt", "x-settings"
        }  # fmt: skip
        return
    dummy = tmp_path / "dummy.env"
    dummy.write_text("\n".join(f"{name}={value}" for name, value in (example_variables() | SECRETS).items()))
    command = [*client, "--project-directory", str(ROOT), "--env-file", str(dummy), "config", "--quiet"]
    checked = subprocess.run(command, check=False, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_the_services_are_these_and_wait_for_each_other() -> None:
    waits = {
        service: {other: wait["condition"] for other, wait in definition.get("depends_on", {}).items()}
        for service, definition in SERVICES.items()
    }
    done, healthy = "service_completed_successfully", "service_healthy"
    assert waits == {
        "postgres": {},
        "redis": {},
        "migrate": {"postgres": healthy},
        "models": {},
        "api": {"migrate": done, "models": done, "redis": healthy},
        "worker": {"migrate": done, "redis": healthy},
    }


@each_service
def test_no_service_runs_as_root_or_can_become_it(service: str) -> None:
    definition = SERVICES[service]
    assert str(definition["user"]).split(":")[0] not in {"", "0", "root"}
    assert definition["cap_drop"] == ["ALL"]
    assert definition["security_opt"] == ["no-new-privileges:true"]
    assert not {"cap_add", "privileged", "pid", "ipc", "devices"} & set(definition)


@each_of_ours
def test_our_services_write_to_tmp_and_volumes_only(service: str) -> None:
    assert SERVICES[service]["read_only"] is True
    assert [mount.split(":")[0] for mount in SERVICES[service]["tmpfs"]] == ["/tmp"]


@each_service
def test_a_service_is_health_checked_unless_it_listens_on_nothing(service: str) -> None:
    healthcheck = SERVICES[service]["healthcheck"]
    if service in {"postgres", "redis", "api"}:
        assert {"test", "interval", "timeout", "retries"} <= set(healthcheck)
    else:
        assert healthcheck == {"disable": True}


@each_service
def test_what_stays_up_is_restarted_and_what_runs_once_is_not(service: str) -> None:
    assert SERVICES[service]["restart"] == ("no" if service in ONE_SHOT else "unless-stopped")


@each_service
def test_images_are_built_here_or_pinned_by_tag(service: str) -> None:
    definition = SERVICES[service]
    if service in OURS:
        assert definition["build"] == {"context": ".", "dockerfile": "infra/Dockerfile"}
        assert "image" not in definition
    else:
        assert re.fullmatch(r"[a-z]+:\d[\w.]*-alpine", definition["image"])


def test_only_the_api_is_published_and_only_on_loopback() -> None:
    published = {service: definition["ports"] for service, definition in SERVICES.items() if "ports" in definition}
    assert published == {"api": ["127.0.0.1:8000:8000"]}


def test_the_stores_have_no_way_out() -> None:
    networks = yaml.safe_load(COMPOSE_TEXT)["networks"]
    assert networks["stores"] == {"internal": True}
    on_stores = {service for service, definition in SERVICES.items() if definition.get("networks") == ["stores"]}
    assert on_stores == {"postgres", "redis", "migrate", "worker"}
    assert SERVICES["models"]["network_mode"] == "none"


def test_redis_keeps_what_it_was_told_and_forgets_nothing() -> None:
    words = SERVICES["redis"]["command"]
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"


@each_service
def test_every_mount_is_a_declared_volume_or_a_file_of_the_checkout(service: str) -> None:
    declared = yaml.safe_load(COMPOSE_TEXT)["volumes"]
    for source, *_, mode in (mount.split(":") for mount in SERVICES[service].get("volumes", [])):
        assert source in declared or ((ROOT / source).is_file() and mode == "ro")


def test_the_api_serves_the_models_that_were_trained_and_cannot_change_them() -> None:
    folder = environment_of("api")["FORECOURT_MODELS"]
    assert environment_of("models")["FORECOURT_MODELS"] == folder
    assert f"models:{folder}" in SERVICES["models"]["volumes"]
    assert f"models:{folder}:ro" in SERVICES["api"]["volumes"]


# The environment


def test_every_variable_is_in_the_example_and_the_example_has_no_other() -> None:
    asked_for = set(re.findall(r"\$\{(\w+)", COMPOSE_TEXT))
    assert asked_for == set(example_variables())
    assert COMPOSE_TEXT.count("$") == COMPOSE_TEXT.count("${")


def test_every_forecourt_variable_named_anywhere_is_a_setting() -> None:
    named = set(re.findall(r"FORECOURT_[A-Z_]+", COMPOSE_TEXT + DOCKERFILE_TEXT + "\n".join(example_variables())))
    assert len(named) > 5
    assert {name.removeprefix("FORECOURT_").lower() for name in named} <= set(Settings.model_fields)


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_a_secret_has_no_default_and_must_be_given(name: str) -> None:
    assert example_variables()[name] == ""
    assert set(re.findall(rf"\$\{{{name}(\W+)", COMPOSE_TEXT)) == {":?"}


@pytest.mark.parametrize("service", ["api", "worker"])
def test_mail_goes_where_it_can_be_written_or_to_the_server_that_is_named(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(service, monkeypatch)
    assert settings.smtp_url is None
    [writable] = (mount.split(":")[0] for mount in SERVICES[service]["tmpfs"])
    assert settings.mail_folder.is_relative_to(writable)
    monkeypatch.setenv("FORECOURT_SMTP_URL", "smtps://user:word@mail.example.com")
    named = Settings().smtp_url
    assert named is not None
    assert named.get_secret_value() == "smtps://user:word@mail.example.com"


@each_of_ours
def test_the_settings_accept_what_a_service_is_started_with(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(service, monkeypatch)
    assert settings.environment == ("demo" if service == "models" else "production")
    assert settings.database_url == environment_of(service)["FORECOURT_DATABASE_URL"]


@pytest.mark.parametrize("service", ["api", "worker"])
def test_only_the_migration_logs_in_as_the_owner_of_the_tables(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = f"//{SERVICES['postgres']['environment']['POSTGRES_USER']}:{SECRETS['POSTGRES_OWNER_PASSWORD']}@"
    assert owner in settings_of("migrate", monkeypatch).migration_url
    assert SECRETS["POSTGRES_OWNER_PASSWORD"] not in str(environment_of(service))
    assert "//forecourt_app:" in settings_of(service, monkeypatch).migration_url


def test_the_role_that_the_service_logs_in_as_can_bypass_nothing() -> None:
    script = (ROOT / "infra" / "postgres" / "application_role.sql").read_text()
    assert "CREATE ROLE forecourt_app LOGIN" in script
    assert "NOSUPERUSER" in script
    assert "NOBYPASSRLS" in script
    [variable] = re.findall(r"\\getenv \w+ (\w+)", script)
    assert variable in SERVICES["postgres"]["environment"]
