"""Queries of one kind that wait for each other, without a server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING

import pytest

from replica.joining import MOST, Joining, Turn
from tests.support import wait_until


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future

#: Seconds; longer than any test.
LONG_S = 60.0


def doubled(numbers: list[int]) -> Sequence[int] | None:
    """Of each."""
    return [2 * number for number in numbers]


def apart(numbers: list[int]) -> Sequence[int] | None:
    """None of them."""
    assert numbers
    return None


def broken(numbers: list[int]) -> Sequence[int] | None:
    """Raises."""
    raise ZeroDivisionError(numbers)


class Server:
    """What is asked of it together, and what was ended."""

    def __init__(self, answer: Callable[[list[int]], Sequence[int] | None] = doubled) -> None:
        self.asked: list[list[int]] = []
        self.ended: list[int] = []
        self._answer = answer

    def ask(self, kind: str, numbers: list[int]) -> Sequence[int] | None:
        """As `Joining` calls it."""
        self.asked.append(numbers)
        return self._answer(numbers)

    def joining(self, patience_s: float = LONG_S) -> Joining[str, int, int]:
        """One in front of it."""
        return Joining(self.ask, self.ended.append, patience_s)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """As many as a test needs."""
    with ThreadPoolExecutor(MOST + 10) as pool:
        yield pool


def stand(joining: Joining[str, int, int], number: int) -> bool:
    """Whether so many wait."""
    return joining.waiting("a") == number


def waiting(
    threads: ThreadPoolExecutor, joining: Joining[str, int, int], numbers: Sequence[int]
) -> list[Future[Turn[int, int]]]:
    """Have *numbers* wait for their turn, in that order."""
    found = []
    for count, number in enumerate(numbers, 1):
        found.append(threads.submit(joining.turn, "a", number))
        wait_until(partial(stand, joining, count))
    return found


def test_who_finds_nobody_goes_at_once(threads: ThreadPoolExecutor) -> None:
    """Alone, and after it the next one, and one of another kind beside it."""
    server = Server()
    joining = server.joining()
    for _ in range(2):
        assert (joining.turn("a", 1).leads, joining.turn("b", 2).leads) == (True, True)
        joining.leave("a")
        joining.leave("b")
    assert server.asked == []


def test_those_that_wait_go_together_and_each_gets_its_part(threads: ThreadPoolExecutor) -> None:
    """In the order in which they came, when the one before them is answered; after them it is as before."""
    server = Server()
    joining = server.joining()
    joining.turn("a", 1)
    turns = waiting(threads, joining, [2, 3, 4])
    joining.leave("a")
    assert [(turn.result().part, turn.result().leads) for turn in turns] == [(4, False), (6, False), (8, False)]
    assert server.asked == [[2, 3, 4]]
    assert joining.turn("a", 5).leads


def test_one_that_waits_alone_goes_alone(threads: ThreadPoolExecutor) -> None:
    """As it would have without the one before it."""
    server = Server()
    joining = server.joining()
    joining.turn("a", 1)
    [turn] = waiting(threads, joining, [2])
    joining.leave("a")
    assert (turn.result().part, turn.result().leads) == (None, True)
    assert server.asked == []


def test_not_too_many_go_together(threads: ThreadPoolExecutor) -> None:
    """The others are next."""
    server = Server()
    joining = server.joining()
    joining.turn("a", 0)
    turns = waiting(threads, joining, range(MOST + 3))
    joining.leave("a")
    assert [turn.result().part for turn in turns] == [2 * number for number in range(MOST + 3)]
    assert list(map(len, server.asked)) == [MOST, 3]


@pytest.mark.parametrize("answer", [apart, broken])
def test_what_fails_together_is_asked_alone(
    threads: ThreadPoolExecutor, answer: Callable[[list[int]], Sequence[int] | None]
) -> None:
    """By each for itself, and nobody waits for them."""
    joining = Server(answer).joining()
    joining.turn("a", 1)
    first, *others = waiting(threads, joining, [2, 3, 4])
    joining.leave("a")
    assert [(turn.result().part, turn.result().leads) for turn in others] == [(None, False)] * 2
    assert first.exception() is not None or first.result().part is None
    assert joining.turn("a", 5).leads


def test_nobody_waits_long_for_a_turn(threads: ThreadPoolExecutor) -> None:
    """Whoever is on the server takes long, or its thread has died: the next one goes, and lets others go after it."""
    server = Server()
    joining = server.joining(patience_s=0.01)
    joining.turn("a", 1)
    turn = joining.turn("a", 2)
    assert (turn.part, turn.leads) == (None, True)
    joining.leave("a")
    joining.leave("a")  # the first one, after all
    assert joining.turn("a", 3).leads
    assert server.ended == []


def test_nobody_waits_long_for_an_answer_to_several(threads: ThreadPoolExecutor) -> None:
    """It goes alone, and has the server end what keeps the others."""
    given_up: SimpleQueue[int] = SimpleQueue()

    def slow(_: str, numbers: list[int]) -> Sequence[int] | None:
        return apart([given_up.get(timeout=LONG_S), *numbers])

    joining: Joining[str, int, int] = Joining(slow, given_up.put, 1.0)
    joining.turn("a", 1)
    turns = waiting(threads, joining, [2, 3])
    joining.leave("a")
    assert [turn.result().part for turn in turns] == [None, None]
    assert given_up.empty()
