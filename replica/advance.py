"""Commands and the move of the position in one round trip: what is sent, and what is known of it meanwhile.  Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import neo4j

from replica.marker import ADVANCE, ADVANCE_CHECKPOINTS, ADVANCE_COUNT, ADVANCE_IDS, ADVANCE_PROPERTIES, Marker, texts


if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from replica.marker import Key
    from replica.statement import Command

    #: What the position's node says of the graph, none where the position was not moved, and what the server says.
    Ended = tuple[list[int] | None, neo4j.ResultSummary]


@dataclass(frozen=True, slots=True)
class Advance:
    """One round trip that applies *commands* and moves the position, if that is where it was thought to be.

    *own* properties are set or removed for the position's sake.  It *counts* where a checkpoint is due, and *tells* the
    node what is known of the checkpoints.
    """

    commands: Sequence[Command]
    published: int
    query: neo4j.Query
    parameters: Mapping[str, Any]
    own: int
    counts: bool
    tells: bool

    def expected(self, before: Marker, server: str) -> Marker:
        """The marker after it, as far as it is known while it is under way."""
        if self.counts:
            before = _opened(before, self.commands[0].offset, server)
        unwritten = before.unwritten and not self.tells
        return before.ahead(self.commands[-1].offset, published=self.published, unwritten=unwritten)


def _opened(marker: Marker, offset: int, server: str) -> Marker:
    """*marker* at a checkpoint, before the graph is counted; what is under way has not been counted either."""
    return replace(marker, tally=marker.tally.at(marker.offset)).closed(offset, server)


def prepared(
    text: str,
    parameters: Mapping[str, Any],
    commands: Sequence[Command],
    marker: Marker,
    *,
    published: int,
    key: Key,
    server: str,
    ids: Mapping[str, bytes | None],
    timeout_s: float,
) -> Advance:
    """What applies *commands*, by *text* with *parameters*, behind *marker*, as far as that is known.

    *server*: how it calls itself; *ids*: what the node has to hold of those of the commands.
    """
    own, before, more = ADVANCE_PROPERTIES, "", ""
    counts = marker.tally.due(commands[0].offset)
    tells = counts or marker.unwritten
    if counts:
        marker = _opened(marker, commands[0].offset, server)
        own, before = own + 1, ADVANCE_COUNT
    after = marker.ahead(commands[-1].offset, published=published)
    ours = {
        "__previous": marker.offset,
        "__topic_id": marker.topic_id,
        "__offset": after.offset,
        "__published": after.published,
        "__rejections": texts(after.rejections),
        "__digest": marker.tally.text(),  # of these commands nothing is counted before they are committed
    }
    if tells:
        ours |= {"__checkpoints": [checkpoint.text() for checkpoint in after.checkpoints]}
        own, more = own + 1, ADVANCE_CHECKPOINTS
    for name, entries in ids.items():
        ours |= {"__ids": name, "__entries": entries}
        own, more = own + 1, more + ADVANCE_IDS
    query = neo4j.Query(ADVANCE % (before + text, more), timeout=timeout_s)
    return Advance(commands, published, query, {**parameters, **ours, **key.parameters}, own, counts, tells)
