"""Seats: a name that a killed worker's successor has too, and nobody else at the same time."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from brokers.clients import Callbacks
from brokers.consumer import consumer_config
from brokers.membership import take_seat


if TYPE_CHECKING:
    from pathlib import Path


HOLD = """
import sys
from pathlib import Path
from brokers.membership import take_seat
seat = take_seat("g", ["t"], Path(sys.argv[1]))
print(seat.name, flush=True)
sys.stdin.read()
"""


def holder(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """Another process with a seat, and its name."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_everybody_has_another_seat_and_the_lowest_free_one(tmp_path: Path) -> None:
    """Also several of one process; other groups have seats of their own."""
    first, second, other = (take_seat(group, ["t"], tmp_path) for group in ("g", "g", "h"))
    assert first is not None
    assert second is not None
    assert other is not None
    assert first.name == other.name
    assert (first.name[-2:], second.name[-2:]) == ("-1", "-2")
    first.leave()
    first.leave()
    again = take_seat("g", ["t"], tmp_path)
    assert again is not None
    assert again.name == first.name


def test_a_killed_process_leaves_its_seat(tmp_path: Path) -> None:
    """To whoever comes next; as long as it lives it keeps it."""
    process, name = holder(tmp_path)
    with process:
        mine = take_seat("g", ["t"], tmp_path)
        assert mine is not None
        assert mine.name != name
        process.kill()
        process.wait()
    successor = take_seat("g", ["t"], tmp_path)
    assert successor is not None
    assert successor.name == name


def test_a_forked_child_keeps_no_seat_taken(tmp_path: Path) -> None:
    """It may live longer than its parent."""
    seat = take_seat("g", ["t"], tmp_path)
    assert seat is not None
    ready, release = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(ready[1], b"x")
        os.read(release[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    seat.leave()
    again = take_seat("g", ["t"], tmp_path)
    os.write(release[1], b"x")
    os.waitpid(child, 0)
    assert again is not None
    assert again.name == seat.name


def test_without_a_place_for_files_there_are_no_seats(tmp_path: Path) -> None:
    """The member then has no name, and its successor waits."""
    file = tmp_path / "file"
    file.write_text("")
    assert take_seat("g", ["t"], file) is None
    assert "group.instance.id" not in consumer_config("g", "classic", None)


def test_only_the_classic_protocol_has_seats(tmp_path: Path) -> None:
    """The other refuses a killed member's successor until its session has ended."""
    seat = take_seat("g", ["t"], tmp_path)
    assert seat is not None
    assert consumer_config("g", "classic", seat)["group.instance.id"] == seat.name
    assert "group.instance.id" not in consumer_config("g", "consumer", seat)


def test_what_a_callback_raises_is_raised_once_and_later() -> None:
    """In the client's own code it would end the process, or become something else."""
    callbacks = Callbacks()

    @callbacks.guarded
    def fail(text: str) -> None:
        raise KeyError(text)

    fail("first")
    fail("second")
    errors = []
    for _ in range(2):
        try:
            callbacks.check()
        except KeyError as error:
            errors.append(error.args)
    assert errors == [("first",)]


def test_clients_of_another_id_have_other_seats(tmp_path: Path) -> None:
    """A replica must not become the successor of another one, whose name Kafka would give it."""
    one, other = take_seat("g", ["t"], tmp_path, client_id="a"), take_seat("g", ["t"], tmp_path, client_id="b")
    plain = take_seat("g", ["t"], tmp_path)
    assert one is not None
    assert other is not None
    assert plain is not None
    names = {one.name, other.name, plain.name}

    one.leave()
    again = take_seat("g", ["t"], tmp_path, client_id="a")

    assert len(names) == 3
    assert again is not None
    assert again.name == one.name
