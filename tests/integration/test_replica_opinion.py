"""The server's second opinion about commands, on a real server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from replica import opinion
from replica.statement import Statement
from replica.transactions import Database
from tests.freezing import frozen
from tests.replicas import replicas_of
from tests.unit.test_replica_determinism import FINE, FROZEN, TOLD


if TYPE_CHECKING:
    from pathlib import Path

    from neo4j import Driver

    from replica.opinion import Opinion
    from tests.conftest import Neo4jServer


def asked(driver: Driver, text: str, **parameters: Any) -> Opinion:
    """What the server says of a text."""
    return opinion.ask(Database(driver, "neo4j", 30), Statement(text, parameters))


@pytest.mark.parametrize(
    ("text", "code", "held"),
    [
        ("MATCH (n RETURN n", "Neo.ClientError.Statement.SyntaxError", False),
        ("CREATE (:X {a: b})", "Neo.ClientError.Statement.SyntaxError", False),
        ("CALL no.such.procedure()", "Neo.ClientError.Procedure.ProcedureNotFound", True),
        ("RETURN $big", "Replica.ParameterNotEncodable", False),
    ],
)
def test_what_would_not_be_applied_is_told_with_its_ending(driver: Driver, text: str, code: str, held: bool) -> None:
    """Rejected by every replica, or held by those that lack something."""
    found = asked(driver, text, **({"big": 2**70} if "$big" in text else {}))
    assert (found.query_type, found.code, found.held) == (None, code, held)
    assert [f"would {'hold' if held else 'reject'} it" in text for text in found.contradictions] == [True]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("LOAD CSV FROM 'file:///x' AS row CREATE (:X)", "reads a file or an address"),
        ("UNWIND [1] AS x CALL (x) { CREATE (:X) } IN TRANSACTIONS", "transactions of its own"),
        ("CREATE USER u SET PASSWORD 'abcdefgh'", "schema or for administration"),
        ("CALL dbms.killConnection('x')", "schema or for administration"),
        ("CALL db.index.fulltext.queryNodes('i', 'x') YIELD node SET node.x = 1", ""),
    ],
)
def test_a_plan_that_does_more_than_the_text_was_read_to_do_is_a_contradiction(
    driver: Driver, text: str, says: str
) -> None:
    """The first verdict refuses these as well; the plan says so without reading the text."""
    found = asked(driver, text)
    assert bool(found.contradictions) is bool(says)
    assert says in " ".join(found.contradictions)


def test_a_command_that_only_reads_is_remarked_upon(driver: Driver) -> None:
    """It is no reason against it."""
    found = asked(driver, "MATCH (n:X) RETURN n")
    assert found.query_type == "r"
    assert found.operators
    assert found.remarks
    assert not found.contradictions


def test_the_server_has_nothing_against_what_the_table_lets_through(driver: Driver) -> None:
    """Every example that is frozen or passes, asked as it goes into the log; some are not of this version."""
    given = {"z": "Europe/Paris", "rows": [{"id": 1, "at": "2024-01-01T00:00Z"}], "n": 1, "list": [1, 2, 3], "s": 1}
    against = {}
    for text in (*FINE, *(text for text, _ in FROZEN.values()), *(t for texts in TOLD.values() for t in texts)):
        found = opinion.ask(Database(driver, "neo4j", 30), frozen(text, given).statement)
        if found.code is None and found.contradictions:
            against[text] = found.contradictions
    assert against == {}


def test_a_sender_may_have_its_commands_compiled_first(
    kafka: str, neo4j_servers: tuple[Neo4jServer, ...], tmp_path: Path
) -> None:
    """By option or by setting; what the server does not take is not sent, and nor is anything without its answer."""
    from replica.errors import Unavailable
    from tasks.errors import CommandRefused

    with replicas_of(kafka, neo4j_servers[:1], tmp_path, started=False) as replicas:
        app = replicas.app()
        with pytest.raises(CommandRefused, match=r"would reject it: .*SyntaxError"):
            app.run_command.send_with_options(args=("CREATE (:X {a: b})",), explain=True)
        assert app.run_command.send("CREATE (:X {a: b})").position() == 0  # nobody was asked
        replicas.environment = {"EXPLAIN_COMMANDS": "true"}
        with pytest.raises(CommandRefused, match="Variable `b` not defined"):
            replicas.app().run_command.send("CREATE (:X {a: b})")
        assert replicas.app().run_command.send("CREATE (:X {at: datetime()})").position() == 1
        replicas.environment["NEO4J_URI"] = "bolt://127.0.0.1:1"
        with pytest.raises(Unavailable):
            replicas.app().run_command.send("CREATE (:X)")
        assert len(replicas.read("command")) == 2
        assert "explain" not in str(replicas.read("command")[0].value())
