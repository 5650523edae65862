"""In the stack, a secret reaches the services that use it and no other."""

import re
from typing import Any

import pytest
import yaml

from conftest import REPO

TASKS = {"scheduler", "worker"}  # with LocalExecutor, tasks run in the scheduler's container
AIRFLOW = TASKS | {"api-server", "dag-processor"}
USERS = {
    "UI_PASSWORD": {"init"},
    "POSTGRES_PASSWORD": AIRFLOW | {"init", "postgres"},
    "REDIS_PASSWORD": TASKS | {"redis"},
    "JWT_SECRET": {"api-server", "scheduler"},
    "SECRET_KEY": TASKS | {"api-server"},
    "FERNET_KEY": {"api-server", "dag-processor", "scheduler"},
    "AWS_ACCESS_KEY_ID": AIRFLOW | {"deploy"},
    "AWS_SECRET_ACCESS_KEY": AIRFLOW | {"deploy"},
    "AWS_SESSION_TOKEN": AIRFLOW | {"deploy"},
    "AWS_FOLDER": AIRFLOW | {"deploy"},
}


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load((REPO / "docker-compose.yaml").read_text())["services"]
    return found


def find_names(value: Any) -> set[str]:
    """The variables of .env that a part of a service uses: `${NAME}`, or in `environment` a name without a value."""
    match value:
        case dict():
            passed = {name for name, one in value.items() if one is None}
            return passed.union(*map(find_names, value.values()))
        case list():
            return set().union(*map(find_names, value))
    return set(re.findall(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)", str(value).replace("$$", "")))


def test_every_secret_of_the_example_is_known_here() -> None:
    secrets = re.findall(r"(?m)^(\w+)=@(?:secret|key|fernet)@$", (REPO / ".env.example").read_text())
    assert secrets
    assert set(secrets) <= set(USERS)


@pytest.mark.parametrize("secret", USERS)
def test_a_secret_reaches_only_who_uses_it(services: dict[str, dict[str, Any]], secret: str) -> None:
    assert {name for name, service in services.items() if secret in find_names(service)} == USERS[secret]


def test_no_service_takes_all_of_the_settings(services: dict[str, dict[str, Any]]) -> None:
    assert [name for name, service in services.items() if "env_file" in service] == []


def test_every_setting_of_the_example_is_used(services: dict[str, dict[str, Any]]) -> None:
    names = set(re.findall(r"(?m)^#?([A-Z_]+)=", (REPO / ".env.example").read_text()))
    used = set().union(*map(find_names, services.values()))
    assert names - used == {"COMPOSE_PROFILES"}  # Compose's own
