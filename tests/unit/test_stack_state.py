from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from ops.errors import NotInStack, StackBusy, StateUnusable, UnknownVersion
from ops.stack import Stack
from ops.state import Server, State, StateFile


if TYPE_CHECKING:
    from pathlib import Path


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    """Ports, password and processes survive the command that chose them."""
    state = State(neo4j_version="5.26.12")
    state.servers["redis"] = Server(name="redis", kind="redis", version="", ports={"redis": 21_000}, pid=7, started=1.5)
    StateFile(tmp_path).write(state)
    assert StateFile(tmp_path).read() == state


def test_only_the_owner_may_read_the_password(tmp_path: Path) -> None:
    """The file holds it in clear."""
    file = StateFile(tmp_path)
    file.write(State())
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


def test_two_stacks_have_two_passwords(tmp_path: Path) -> None:
    """There is no default password to guess."""
    assert State().password != State().password


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    """It is neither guessed at nor overwritten."""
    file = StateFile(tmp_path)
    file.path.write_text('{"format": 99, "password": "p"}')
    with pytest.raises(StateUnusable, match="another version"):
        file.read()
    file.path.write_text("{")
    with pytest.raises(StateUnusable, match="not a stack's state"):
        file.read()
    assert file.path.read_text() == "{"


def test_a_second_command_waits_for_its_turn_and_then_gives_up(tmp_path: Path) -> None:
    """Two `up` at once must not start two servers on the same data."""
    with StateFile(tmp_path).lock(0), pytest.raises(StackBusy, match="another command"):
        StateFile(tmp_path).lock(0.05).__enter__()
    with StateFile(tmp_path).lock(0):
        pass


def test_the_state_directory_keeps_itself_out_of_git(tmp_path: Path) -> None:
    """Wherever a user puts it, passwords and data are not committed by accident."""
    with StateFile(tmp_path / "deep" / "stack").lock(0):
        assert (tmp_path / "deep" / "stack" / ".gitignore").read_text() == "*\n"


@pytest.mark.parametrize("version", ["4.4.40", "newest", "5", "../5.1"])
def test_a_version_that_cannot_run_is_refused_before_anything_starts(tmp_path: Path, version: str) -> None:
    """The message names those that can."""
    with pytest.raises(UnknownVersion, match=r"5\.26\.12"):
        Stack(tmp_path).up(neo4j_version=version)


def test_data_of_one_version_are_not_opened_with_another(tmp_path: Path) -> None:
    """An upgrade by accident could not be taken back."""
    StateFile(tmp_path).write(State(neo4j_version="5.26.12"))
    with pytest.raises(StateUnusable, match="--fresh"):
        Stack(tmp_path).up(neo4j_version="2026.04.0")


@pytest.mark.parametrize("name", ["mysql", "neo4j", "neo4j-0", "worker-1", "kafka-1", "../kafka"])
def test_a_name_that_is_no_server_is_refused(tmp_path: Path, name: str) -> None:
    """Names become folders, so only the known ones pass."""
    with pytest.raises(NotInStack, match=r"kafka, redis, neo4j-1"):
        Stack(tmp_path).start(name)


def test_a_stack_that_never_started_says_so(tmp_path: Path) -> None:
    """Asking creates nothing."""
    stack = Stack(tmp_path / "none")
    assert stack.status() == []
    assert stack.down() == []
    with pytest.raises(NotInStack, match="`up` starts it"):
        stack.environment()
    assert not (tmp_path / "none").exists()
