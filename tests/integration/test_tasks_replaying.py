"""A stretch of the log on one graph that is no replica's, on real servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.decisions import skip_target
from tasks.replaying import Log, replay
from tests.replicas import replicas_of, value


if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Neo4jServer


def test_what_all_replicas_have_skipped_is_skipped_in_a_graph_of_the_past(
    kafka: str, neo4j_servers: tuple[Neo4jServer, ...], tmp_path: Path
) -> None:
    """A decided skip counts, or the graph would hold what no replica holds; a proposal does not."""
    told: list[tuple[int, int]] = []
    with replicas_of(kafka, neo4j_servers[:1], tmp_path, started=False) as replicas:
        app = replicas.app()
        offsets = [app.run_command.send("CREATE (:Step {n: $n})", n=n).position() for n in range(4)]
        topic_id = app.broker.topics.identity(app.command_topic.name)
        for offset, applies in ((offsets[1], True), (offsets[2], False)):
            app.decisions.decide("skip", skip_target(topic_id, offset), reason="poison", applies=applies)
        with Log(app) as log:
            position = replay(app, log, offsets[3], lambda done, total: told.append((done, total)))
    assert position == offsets[3]
    assert told[-1] == (4, 4)
    assert value(neo4j_servers[0], "MATCH (s:Step) WITH s ORDER BY s.n RETURN collect(s.n)") == [0, 2, 3]
