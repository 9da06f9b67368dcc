"""Results, pipelines, groups and callbacks: as Dramatiq's documentation promises it of every broker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dramatiq
import pytest
from dramatiq import Message, group, pipeline
from dramatiq.results import ResultFailure, ResultMissing, ResultTimeout

from tests.support import wait_until


if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.contract.conftest import Desk

Worker = dramatiq.Worker


def together(children: list[Any]) -> Any:
    """A group; Dramatiq leaves it without types."""
    return group(children)  # type: ignore[no-untyped-call]


def test_results_come_back(desk: Desk, worker: Worker) -> None:
    """Values, and errors once the message has failed for good."""

    @dramatiq.actor(store_results=True, max_retries=0)
    def divide(a: int, b: int) -> float:
        return a / b

    good, bad = divide.send(1, 2), divide.send(1, 0)
    assert good.get_result(block=True, timeout=20_000) == 0.5
    with pytest.raises(ResultFailure, match="ZeroDivisionError"):
        bad.get_result(block=True, timeout=20_000)


def test_a_pipeline_hands_results_on(desk: Desk, worker: Worker) -> None:
    """From each actor to the next, through the queue."""

    @dramatiq.actor(store_results=True)
    def add(a: int, b: int) -> int:
        return a + b

    message: Callable[..., Message[Any]] = add.message  # the result before it is the other argument
    chain: Any = message(1, 2) | message(3) | message(4)
    assert isinstance(chain, pipeline)
    ran: Any = chain.run()  # type: ignore[no-untyped-call]  # not annotated
    assert ran.get_result(block=True, timeout=20_000) == 10


def test_a_group_gathers_results(desk: Desk, worker: Worker) -> None:
    """In the order of its members; groups of pipelines too."""

    @dramatiq.actor(store_results=True)
    def double(number: int) -> int:
        return 2 * number

    message: Callable[..., Message[Any]] = double.message  # a result may be its argument
    jobs = together([message(n) for n in range(10)]).run()
    assert list(jobs.get_results(block=True, timeout=20_000)) == [2 * n for n in range(10)]
    nested = together([message(n) | message() for n in range(3)]).run()
    assert list(nested.get_results(block=True, timeout=20_000)) == [0, 4, 8]


def test_a_group_calls_back_when_all_have_run(desk: Desk, worker: Worker) -> None:
    """Once, after the last one."""
    ran: list[int] = []
    done: list[int] = []

    @dramatiq.actor
    def member(number: int) -> None:
        ran.append(number)

    @dramatiq.actor
    def finale() -> None:
        done.append(len(ran))

    jobs = together([member.message(n) for n in range(5)])
    jobs.add_completion_callback(finale.message())
    jobs.run()
    wait_until(lambda: done, what="the completion callback")
    desk.join()
    assert done == [5]


def test_actors_call_back(desk: Desk, worker: Worker) -> None:
    """On success with the result, on failure with the error."""
    told: list[Any] = []

    @dramatiq.actor
    def succeeded(message: dict[str, Any], result: int) -> None:
        told.append((message["args"], result))

    @dramatiq.actor
    def failed(message: dict[str, Any], error: dict[str, str]) -> None:
        told.append((message["args"], error))

    @dramatiq.actor(max_retries=0, store_results=True, on_success="succeeded", on_failure="failed")
    def invert(number: int) -> float:
        return 1 / number

    invert.send(2)
    invert.send(0)
    wait_until(lambda: len(told) == 2, what="both callbacks")
    assert ([2], 0.5) in told
    assert ([0], {"type": "ZeroDivisionError", "message": "division by zero"}) in told


def test_a_result_that_is_not_there_is_missing(desk: Desk, results: Any) -> None:
    """Asked for at once, or waited for in vain."""

    @dramatiq.actor(store_results=True)
    def idle() -> None: ...

    message = idle.send()
    assert desk.broker.get_results_backend() is results
    with pytest.raises(ResultMissing):
        message.get_result()
    with pytest.raises(ResultTimeout):
        message.get_result(block=True, timeout=100)


def test_results_lie_in_any_backend(desk: Desk, results: Any, worker: Worker) -> None:
    """Of one, of all steps of a pipeline, of a group; an error once its message has failed for good."""

    @dramatiq.actor(store_results=True, max_retries=1, min_backoff=0)
    def invert(number: float) -> float:
        return 1 / number

    message: Callable[..., Message[Any]] = invert.message
    steps: Any = (message(4) | message() | message()).run()
    assert list(steps.get_results(block=True, timeout=20_000)) == [0.25, 4, 0.25]
    assert steps.completed
    jobs = together([message(n) for n in (1, 2, 0)]).run()
    with pytest.raises(ResultFailure) as failure:
        list(jobs.get_results(block=True, timeout=20_000))
    assert failure.value.orig_exc_type == "ZeroDivisionError"


def test_a_pipeline_ends_where_it_fails(desk: Desk, worker: Worker) -> None:
    """What would come next is never sent; with `pipe_ignore` a result is not handed on; a step may be delayed."""
    ran: list[Any] = []

    @dramatiq.actor(max_retries=0, store_results=True)
    def step(*args: int) -> int:
        ran.append(args)
        if args == (0,):
            raise ValueError("zero")
        return 5

    message: Callable[..., Message[Any]] = step.message_with_options
    failing: Any = message(args=(0,)) | message(args=(1,))
    failing.run()
    desk.join()
    assert ran == [(0,)]
    ran.clear()
    chain: Any = message(args=(1,)) | message(args=(2,), pipe_ignore=True) | message(delay=200)
    chain.run()
    assert chain.get_result(block=True, timeout=20_000) == 5
    assert ran == [(1,), (2,), (5,)]


def test_a_group_of_pipelines_calls_back_after_their_last_steps(desk: Desk, worker: Worker) -> None:
    """And can be run late, as a whole."""
    ran: list[int] = []
    done: list[list[int]] = []

    @dramatiq.actor
    def step(number: int) -> int:
        ran.append(number)
        return number + 10

    @dramatiq.actor
    def finale() -> None:
        done.append(sorted(ran))

    message: Callable[..., Message[Any]] = step.message
    jobs = together([message(n) | message() for n in range(3)])
    jobs.add_completion_callback(finale.message())
    jobs.run(delay=150)
    wait_until(lambda: done, 20, what="the completion callback")
    desk.join()
    assert done == [[0, 1, 2, 10, 11, 12]]
