"""The containers: what compose.yaml and .env.example promise, read without Docker."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema
from jsonschema import Draft7Validator

import settings


ROOT = Path(__file__).parents[2]
REPLICAS = (1, 2, 3)
LONG_RUNNING = {"kafka", "redis", *(f"{kind}-{n}" for kind in ("neo4j", "worker") for n in REPLICAS)}

#: `${NAME}`, `${NAME:-default}`, `${NAME:?message}`; not `$$(...)`, which is the shell's.
INTERPOLATED = re.compile(r"(?<!\$)\$\{(?P<name>\w+)(?P<rest>[^}]*)\}")

Service = dict[str, Any]


@pytest.fixture(scope="module")
def text() -> str:
    """The file as it is."""
    return (ROOT / "compose.yaml").read_text()


@pytest.fixture(scope="module")
def services(text: str) -> dict[str, Service]:
    """Its services, anchors resolved."""
    found: dict[str, Service] = yaml.safe_load(text)["services"]
    return found


@pytest.fixture(scope="module")
def example() -> dict[str, str]:
    """The variables of .env.example."""
    lines = [line for line in (ROOT / ".env.example").read_text().splitlines() if line and not line.startswith("#")]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def test_the_file_follows_the_compose_specification(text: str) -> None:
    """Every key and type is one that Compose knows."""
    errors = Draft7Validator(get_builtin_schema("vendor.compose-spec")).iter_errors(yaml.safe_load(text))
    assert [error.message for error in errors] == []


def test_there_is_one_log_three_databases_and_a_worker_for_each(services: dict[str, Service]) -> None:
    """Nothing more, and the one-shot that makes the topics."""
    assert services.keys() == LONG_RUNNING | {"init"}


@pytest.mark.parametrize("n", REPLICAS)
def test_a_database_is_reached_by_its_own_worker_only(services: dict[str, Service], n: int) -> None:
    """A replica that could reach another one would not be isolated."""
    networks = set(services[f"neo4j-{n}"]["networks"])
    neighbours = {name for name, service in services.items() if networks & set(service["networks"])}
    assert neighbours == {f"neo4j-{n}", f"worker-{n}"}
    assert services[f"worker-{n}"]["environment"]["NEO4J_URI"] == f"bolt://neo4j-{n}:7687"


def test_each_worker_is_a_replica_of_its_own(services: dict[str, Service]) -> None:
    """Two workers in one group would share the commands instead of each getting all of them."""
    assert len({services[f"worker-{n}"]["environment"]["GROUP_ID"] for n in REPLICAS}) == len(REPLICAS)


@pytest.mark.parametrize("n", REPLICAS)
def test_the_databases_are_published_where_they_always_were(services: dict[str, Service], n: int) -> None:
    """Bolt on 7681 to 7683, the browser on 7471 to 7473, and the browser is told which Bolt port is its own."""
    service = services[f"neo4j-{n}"]
    assert service["ports"] == [f"127.0.0.1:768{n}:7687", f"127.0.0.1:747{n}:7474"]
    assert service["environment"]["NEO4J_server_bolt_advertised__address"] == f"localhost:768{n}"


def test_ports_are_published_on_loopback_only(services: dict[str, Service]) -> None:
    """Kafka speaks without a password here, and a port on every interface goes past most firewalls."""
    ports = chain.from_iterable(service.get("ports", []) for service in services.values())
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("name", sorted(LONG_RUNNING))
def test_a_long_running_service_is_watched_and_comes_back(services: dict[str, Service], name: str) -> None:
    """It has a health check, a restart policy and a limit of memory."""
    service = services[name]
    assert service["healthcheck"]["test"]
    assert service["restart"] == "unless-stopped"
    assert service["deploy"]["resources"]["limits"]["memory"]


def test_making_the_topics_is_done_once(services: dict[str, Service]) -> None:
    """A service that ends by itself must not be started again, and everybody waits until it has ended well."""
    assert services["init"]["restart"] == "no"
    for n in REPLICAS:
        assert services[f"worker-{n}"]["depends_on"]["init"] == {"condition": "service_completed_successfully"}


def test_a_dependency_is_waited_for_until_it_is_healthy(services: dict[str, Service]) -> None:
    """Started is not ready."""
    for service in services.values():
        for name, wait in service.get("depends_on", {}).items():
            assert name == "init" or wait == {"condition": "service_healthy"}


@pytest.mark.parametrize("n", REPLICAS)
def test_a_worker_gives_up_before_docker_kills_it(services: dict[str, Service], n: int) -> None:
    """Dramatiq's own time-out (milliseconds) is shorter than the grace period (seconds)."""
    worker = services[f"worker-{n}"]
    options = dict(part.split("=") for part in worker["command"] if "=" in part)
    assert int(options["--worker-shutdown-timeout"]) / 1000 < int(worker["stop_grace_period"].removesuffix("s"))


@pytest.mark.parametrize("name", ["init", *(f"worker-{n}" for n in REPLICAS)])
def test_a_service_of_ours_is_given_only_settings_that_exist(services: dict[str, Service], name: str) -> None:
    """A misspelt variable would be ignored in silence."""
    assert services[name]["environment"].keys() <= settings.environment_names().keys()


def test_no_password_stands_in_the_file(services: dict[str, Service]) -> None:
    """Whatever is secret comes from outside, and Compose stops with a sentence where it is missing."""
    for service in services.values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASS|AUTH|SECRET|TOKEN", name):
                assert re.fullmatch(r"(neo4j/)?\$\{NEO4J_PASS:\?[^}]+\}", value)


def test_the_example_names_every_variable_and_no_value(text: str, example: dict[str, str]) -> None:
    """Who copies the example and fills in nothing is told so, and never runs with a password that everybody knows."""
    assert example.keys() == {match["name"] for match in INTERPOLATED.finditer(text)}
    assert set(example.values()) == {""}


def test_images_are_pinned(services: dict[str, Service]) -> None:
    """What was tested is what runs: every image that is not built here has a version."""
    for service in services.values():
        assert "build" in service or re.search(r":\d", service["image"])


def test_data_outlives_the_containers(text: str, services: dict[str, Service]) -> None:
    """The log and the three graphs lie in volumes of their own."""
    volumes = [volume.partition(":")[0] for service in services.values() for volume in service.get("volumes", [])]
    assert sorted(volumes) == sorted(yaml.safe_load(text)["volumes"]) == ["kafka", "neo4j-1", "neo4j-2", "neo4j-3"]
