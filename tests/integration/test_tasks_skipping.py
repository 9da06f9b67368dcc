"""Commands that replicas hold: visible, skipped by all of them or by none, on real servers."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

import cli
from ops import skipping
from ops.errors import NotSkipped
from replica.driver import connect
from tasks.decisions import skip_target
from tasks.errors import CommandRejected, WaitTimeout
from tests.replicas import Replicas, replicas_of, value
from tests.support import wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.app import App
    from tests.conftest import Neo4jServer

POISON = "MATCH (l:Locked) SET l.n = l.n + 1"


@pytest.fixture(scope="module")
def replicas(
    kafka: str, neo4j_servers: tuple[Neo4jServer, ...], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Replicas]:
    """Two replicas that hold what takes longer than a second."""
    folder = tmp_path_factory.mktemp("skipping")
    with replicas_of(kafka, neo4j_servers[:2], folder, COMMAND_TIMEOUT_S="1") as found:
        found.app().run_command.send("CREATE (:Locked {n: 0})").wait(applied=2, timeout=60)
        yield found


@pytest.fixture
def app(replicas: Replicas) -> App:
    """Somebody who looks on."""
    return replicas.app()


@contextmanager
def locked(*servers: Neo4jServer) -> Iterator[None]:
    """The node that the poison wants, locked by somebody else on these servers."""
    with ExitStack() as stack:
        for server in servers:
            driver = stack.enter_context(connect(server.uri, server.user, server.password))
            tx = stack.enter_context(driver.session(database="neo4j")).begin_transaction()
            stack.callback(tx.close)
            tx.run("MATCH (l:Locked) SET l.lock = true").consume()
        yield


def held_by(app: App, count: int, offset: int) -> None:
    """Wait until so many replicas say that they hold the command."""

    def enough() -> bool:
        found = app.follower.held(8)
        return [holding.offset for holding in found.values()] == [offset] * count

    wait_until(enough, 40, f"{count} replicas to hold {offset}")


def numbers(replicas: Replicas) -> list[int]:
    """How often the poison was applied, on each replica."""
    return [value(server, "MATCH (l:Locked) RETURN l.n") for server in replicas.servers]


def test_a_command_that_all_hold_is_visible_and_can_be_skipped(replicas: Replicas, app: App) -> None:
    """With offset, code and attempts; skipped, it is rejected on both with the reason, and the log goes on."""
    before = numbers(replicas)
    with locked(*replicas.servers):
        poison = app.run_command.send(POISON)
        after = app.run_command.send("MERGE (:After {n: 1})")
        held_by(app, 2, poison.position())
        for holding in app.follower.held(8).values():
            assert "Tim" in holding.code or "Lock" in holding.code
            assert holding.attempts >= 1
            assert holding.since_ms <= holding.at_ms
        with pytest.raises(WaitTimeout, match=f"; .*cannot apply {poison.position()}: Neo\\.") as waited:
            after.wait(applied="all", timeout=2)
        said = str(waited.value).partition(";")[2]
        assert all(replicas.name(number) in said for number in (1, 2)), said
        with pytest.raises(NotSkipped, match="no replica holds"):
            skipping.skip(app, after.position(), "not held", timeout_s=1)
        arguments = ["replica", "skip", str(poison.position()), "--reason", "poison", "--json"]
        done = CliRunner().invoke(cli.main, arguments, env=replicas.env())
        assert done.exit_code == 0, done.output
        with pytest.raises(CommandRejected, match="poison") as rejected:
            poison.wait(applied="all", timeout=40)
    assert rejected.value.code == "Replica.Skipped"
    after.wait(applied="all", timeout=40)
    assert numbers(replicas) == before
    wait_until(lambda: not app.follower.held(8), 20, "nothing to be held")
    with pytest.raises(NotSkipped, match="skipped already"):
        skipping.skip(app, poison.position(), "again", timeout_s=1)


def test_a_command_that_one_replica_has_applied_is_never_skipped(replicas: Replicas, app: App) -> None:
    """The other one is alone in holding it, and goes on when it is mended."""
    before = numbers(replicas)
    with locked(replicas.servers[1]):
        poison = app.run_command.send(POISON)
        poison.wait(applied="any", timeout=40)
        held_by(app, 1, poison.position())
        with pytest.raises(NotSkipped, match=r"replica-1 has passed command \d+ already"):
            skipping.skip(app, poison.position(), "too late", timeout_s=1)
        assert app.decisions.look() == () or all(found.applies for found in app.decisions.look())
    poison.wait(applied="all", timeout=40)
    assert numbers(replicas) == [n + 1 for n in before]


@pytest.mark.slow
def test_a_proposal_that_nobody_decides_holds_all_and_changes_nothing(replicas: Replicas, app: App) -> None:
    """A killed `skip` leaves one: nobody applies the command, not even a restarted worker, until it is withdrawn."""
    before = numbers(replicas)
    with locked(*replicas.servers):
        poison = app.run_command.send(POISON)
        held_by(app, 2, poison.position())
        topic_id = app.broker.topics.identity(app.command_topic.name)
        proposal = app.decisions.decide("skip", skip_target(topic_id, poison.position()), reason="then killed")
    wait_until(
        lambda: [h.agreed_ms for h in app.follower.held(8).values()] == [proposal.at_ms] * 2, 40, "both to agree"
    )
    replicas.kill(1)
    replicas.start(1)
    wait_until(lambda: replicas.log(1).read_text().count("replica_started") > 1, 40, "the worker to start again")
    held_by(app, 2, poison.position())
    assert numbers(replicas) == before

    assert skipping.withdraw(app, poison.position())
    assert not skipping.withdraw(app, poison.position())

    poison.wait(applied="all", timeout=60)
    assert numbers(replicas) == [n + 1 for n in before]


@pytest.mark.slow
def test_a_replica_that_does_not_answer_leaves_everything_as_it_is(replicas: Replicas, app: App) -> None:
    """Who does not agree in time is named, and the others hold as before."""
    replicas.kill(2)
    before = numbers(replicas)
    try:
        with locked(replicas.servers[0]):
            poison = app.run_command.send(POISON)
            wait_until(
                lambda: any(h.offset == poison.position() for h in app.follower.held(8).values()), 40, "one to hold"
            )
            with pytest.raises(NotSkipped, match="replica-2 did not agree in time"):
                skipping.skip(app, poison.position(), "alone", timeout_s=4)
    finally:
        replicas.start(2)
    poison.wait(applied="all", timeout=60)
    assert numbers(replicas) == [n + 1 for n in before]
