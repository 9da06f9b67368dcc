"""What is installed, from where it is known, and what stands in the package."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

import settings


ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "requirements-demo.lock", "requirements-dev.lock")


def canonical(requirement: str) -> str:
    """The name in *requirement* as locks spell it."""
    name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def entries(lock: str) -> list[str]:
    """What one lock says about each package: the pinned version, its hashes and who wants it."""
    return re.split(r"^(?=\w)", (ROOT / lock).read_text(), flags=re.MULTILINE)[1:]


def pinned(lock: str) -> dict[tuple[str, str], str]:
    """Package and marker to version, as one lock says."""
    lines = [entry.splitlines()[0].removesuffix(" \\") for entry in entries(lock)]
    requirements = [(line.partition(" ; ")[0].partition("=="), line.partition(" ; ")[2]) for line in lines]
    return {(name, marker): version for (name, _, version), marker in requirements}


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    """The project as declared."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    """The package as it would be published."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return ZipFile(next(folder.glob("*.whl")))


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_address(lock: str) -> None:
    """A lock says what, never from where: whoever installs has a registry of his own."""
    assert (
        re.findall(r"\S*://\S*|--(?:\w+-)?index\S*|--find-links\S*|--trusted-host\S*", (ROOT / lock).read_text()) == []
    )


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_says_how_it_is_made_and_not_on_which_machine(lock: str) -> None:
    """The first lines name the command, and no line names a folder."""
    text = (ROOT / lock).read_text()
    assert "make lock" in text.splitlines()[1]
    assert "/" not in text


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_of_a_lock_has_hashes(lock: str) -> None:
    """Without them pip would take whatever a registry gives out under that name."""
    assert len(entries(lock)) > len(LOCKS)
    assert [
        entry for entry in entries(lock) if not re.match(r"[\w.-]+==[^*]+? .*\n +--hash=sha256:\w{64}", entry)
    ] == []


@pytest.mark.parametrize("lock", [lock for lock in LOCKS if lock != "requirements-dev.lock"])
def test_the_smaller_locks_are_parts_of_the_large_one(lock: str) -> None:
    """What runs in a container and in the demo is what the tests ran with."""
    assert pinned(lock).items() <= pinned("requirements-dev.lock").items()


def test_every_declared_dependency_is_locked(pyproject: dict[str, Any]) -> None:
    """A dependency that was added without `make lock` would be missing after `make install`."""
    project = pyproject["project"]
    extras = chain.from_iterable(project["optional-dependencies"].values())
    declared = [*project["dependencies"], *extras, *pyproject["dependency-groups"]["build"]]
    assert {canonical(requirement) for requirement in declared} <= {name for name, _ in pinned("requirements-dev.lock")}


def test_every_dependency_says_why_it_is_there() -> None:
    """Each stands on a line of its own and ends in a reason."""
    text = (ROOT / "pyproject.toml").read_text()
    tables = text[text.index("dependencies = [") : text.index("[project.scripts]")]
    requirements = [line for line in tables.splitlines() if re.match(r'\s+"', line)]
    assert requirements
    assert [line for line in requirements if not re.search(r'",\s+# \S+', line)] == []


def test_the_package_holds_every_room_and_nothing_else(wheel: ZipFile, pyproject: dict[str, Any]) -> None:
    """Neither tests nor benchmarks are installed on other people's machines."""
    tops = {name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" not in name}
    assert tops == set(pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"])


def test_the_package_brings_its_data(wheel: ZipFile) -> None:
    """Lock files of the servers and named Cypher statements lie beside the code that reads them."""
    data = [
        file.relative_to(ROOT).as_posix()
        for room in ("brokers", "replica", "tasks", "ops")
        for pattern in ("*.lock*", "*.cypher")
        for file in (ROOT / room).rglob(pattern)
    ]
    assert data
    assert set(data) <= set(wheel.namelist())


def test_the_package_brings_its_command(wheel: ZipFile) -> None:
    """`neo4j-kafka` is `cli.main`."""
    entry_points = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "neo4j-kafka = cli:main" in wheel.read(entry_points).decode()


def test_the_readme_explains_every_setting_and_no_other() -> None:
    """The table of settings is the code's."""
    section = (ROOT / "README.md").read_text().partition("\n## Settings\n")[2].partition("\n## ")[0]
    first_cells = "".join(line.split("|")[1] for line in section.splitlines() if line.startswith("|"))
    assert set(re.findall(r"`(\w+)`", first_cells)) == settings.environment_names().keys()
