"""The rooms of the project, and the one direction in which they may know each other."""

from __future__ import annotations

import ast
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import pytest


if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]

#: Each room and the rooms that it may import.  `brokers` and `replica` are strangers: they meet in `tasks`.
MAY_IMPORT = {
    "settings": set(),
    "brokers": {"settings"},
    "replica": {"settings"},
    "tasks": {"settings", "brokers", "replica"},
    "ops": {"settings", "brokers", "replica", "tasks"},
    "cli": {"settings", "brokers", "replica", "tasks", "ops"},
}

#: What a room must not know of the world outside: Kafka's side knows no database, Neo4j's side no queue.
MUST_NOT_IMPORT = {
    "brokers": {"neo4j", "redis"},
    "replica": {"confluent_kafka", "dramatiq", "kafka", "redis"},
}

ENVIRONMENT = {"environ", "environb", "getenv", "getenvb"}


def _imported(tree: ast.AST, package: str) -> Iterator[str]:
    """Every module that *tree* imports, also inside functions and for types only; relative names made absolute."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module
            case ast.ImportFrom(module=module, names=names, level=level):
                parents = package.split(".")
                base = [*parents[: len(parents) - level + 1], *([module] if module else [])]
                yield from (".".join([*base, alias.name]) for alias in names)


def _reads_environment(tree: ast.AST) -> bool:
    """Whether *tree* looks into the environment; handing all of it on to a child (`{**os.environ}`) is no look."""
    handed_on = {
        id(value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
        if key is None
    }
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module="os", names=names) if ENVIRONMENT & {alias.name for alias in names}:
                return True
            case ast.Attribute(value=ast.Name(id="os"), attr=name) if name in ENVIRONMENT and id(node) not in handed_on:
                return True
    return False


def _is_forbidden(name: str, room: str) -> bool:
    top = name.split(".", maxsplit=1)[0]
    if top in MAY_IMPORT:
        return top != room and top not in MAY_IMPORT[room]
    return top in MUST_NOT_IMPORT.get(room, set())


def violations(module: str, source: str, *, package: str = "") -> list[str]:
    """Say what *module* imports or reads and should not.  *package* is where its relative imports start."""
    room = module.split(".", maxsplit=1)[0]
    tree = ast.parse(source)
    found = [f"{module} imports {name}" for name in _imported(tree, package) if _is_forbidden(name, room)]
    if room != "settings" and _reads_environment(tree):
        found.append(f"{module} reads the environment")
    return found


def _modules() -> dict[str, Path]:
    files = chain.from_iterable((*ROOT.glob(f"{room}.py"), *(ROOT / room).rglob("*.py")) for room in MAY_IMPORT)
    return {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in files}


@pytest.mark.parametrize("module", sorted(_modules()))
def test_a_module_imports_only_what_its_room_may_know(module: str) -> None:
    """Settings know nobody, brokers and replica not each other, and only the command line knows ops."""
    file = _modules()[module]
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    assert violations(module, file.read_text(), package=package.removesuffix(".__init__")) == []


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_every_room_is_there(room: str) -> None:
    """A room that was renamed would make this test pass for want of anything to look at."""
    assert any(module.split(".", maxsplit=1)[0] == room for module in _modules())


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("brokers.kafka", "import replica.apply", "brokers.kafka imports replica.apply"),
        ("brokers.kafka", "def late():\n    import neo4j.time", "brokers.kafka imports neo4j.time"),
        ("brokers.kafka", "import redis", "brokers.kafka imports redis"),
        ("brokers.kafka", "from tasks import run_command", "brokers.kafka imports tasks"),
        ("replica.apply", "import confluent_kafka as ck", "replica.apply imports confluent_kafka"),
        ("replica.apply", "import dramatiq.errors", "replica.apply imports dramatiq.errors"),
        ("replica.apply", "from brokers import records", "replica.apply imports brokers"),
        ("replica.apply", "if TYPE_CHECKING:\n    import tasks", "replica.apply imports tasks"),
        ("tasks.actors", "import ops.stack", "tasks.actors imports ops.stack"),
        ("settings", "import brokers", "settings imports brokers"),
        ("settings", "from brokers import KafkaBroker", "settings imports brokers"),
        ("ops.stack", "from cli import main", "ops.stack imports cli"),
        ("ops.stack", "import os\nhome = os.environ['HOME']", "ops.stack reads the environment"),
        ("tasks.setup", "from os import getenv", "tasks.setup reads the environment"),
        ("cli", "import os\nhome = os.getenv('HOME')", "cli reads the environment"),
    ],
)
def test_a_planted_violation_is_found(module: str, source: str, found: str) -> None:
    """The check sees imports at the top, inside functions, and for types only."""
    assert violations(module, source) == [found]


def test_a_relative_import_is_followed() -> None:
    """`from .. import tasks` inside a package names the room beside it."""
    assert violations("brokers.kafka", "from ..tasks import setup", package="brokers") == [
        "brokers.kafka imports tasks.setup"
    ]
    assert violations("brokers.kafka", "from .. import tasks", package="brokers") == ["brokers.kafka imports tasks"]
    assert violations("brokers.kafka", "from .records import Record", package="brokers") == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("brokers.kafka", "import settings\nfrom brokers.records import Record\nimport confluent_kafka, dramatiq"),
        ("replica.apply", "import neo4j\nfrom replica.statement import Position"),
        ("tasks", "import brokers, replica, redis, neo4j, settings"),
        ("settings", "import os\nvalue = os.environ.get('BROKERS')"),
        ("ops.processes", "import os\nchild = {**os.environ, 'GROUP_ID': 'replica-1'}"),
    ],
)
def test_what_is_allowed_is_not_reported(module: str, source: str) -> None:
    """Neighbours in a room, lower rooms, and handing the environment on to a child are in order."""
    assert violations(module, source) == []
