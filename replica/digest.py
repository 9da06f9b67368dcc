"""What the commands between two multiples of 1,024 offsets did here, in short.  Pure.

Replicas that were given the same commands can tell by it whether they did the same.  It depends on the commands alone,
never on how a replica cut its transactions: no transaction crosses such a multiple, and the first one behind it writes
down, before its own commands run, how the segment before has ended.

The counters of a transaction that needs one round trip are known only after its commit, and so are written down by the
next one.  A crash in between loses them for this segment, and for no other: its checkpoint says that they are unknown.
The chain of rejected outcomes, and the numbers of nodes and relationships, are always exact.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final


if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from replica.statement import Outcome

#: Offsets of one segment.  The same for all replicas, for ever: the cuts are part of what is compared.
INTERVAL: Final = 1024

#: Checkpoints that a graph keeps, besides those not published yet: a restart says them again.
KEPT: Final = 8


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A graph after every command below the offset *before*, and what the commands since the last checkpoint did.

    *counters* and *chain* are None where they are not known: a crash lost them, or the graph was restored without.
    *unexplained* is how many nodes and relationships there are beyond what the counters account for.
    """

    before: int
    nodes: int
    relationships: int
    chain: str | None
    counters: Mapping[str, int] | None
    unexplained: tuple[int, int] | None = None
    server: str = ""

    def differences(self, other: Checkpoint) -> list[str]:
        """What the two know of the same offsets and do not agree on, in words; nothing where they agree."""
        pairs: list[tuple[str, object, object]] = [
            ("nodes", self.nodes, other.nodes),
            ("relationships", self.relationships, other.relationships),
        ]
        if self.server == other.server:  # codes and counters are those of a version
            if self.chain is not None and other.chain is not None:
                pairs.append(("rejected commands (chain)", self.chain, other.chain))
            if self.counters is not None and other.counters is not None:
                names = sorted(self.counters.keys() | other.counters.keys())
                pairs += [(name, self.counters.get(name, 0), other.counters.get(name, 0)) for name in names]
        return [f"{name}: {mine} and {theirs}" for name, mine, theirs in pairs if mine != theirs]

    @property
    def digest(self) -> str:
        """All of it in 16 digits, for people; what is not known counts as such."""
        text = json.dumps([self.before, self.nodes, self.relationships, self.chain, _sorted(self.counters)])
        return blake2b(text.encode(), digest_size=8).hexdigest()

    def text(self) -> str:
        """As the graph keeps it."""
        known = {"chain": self.chain, "counters": _sorted(self.counters), "unexplained": self.unexplained}
        counted = {"before": self.before, "nodes": self.nodes, "relationships": self.relationships}
        return json.dumps({**counted, **known, "server": self.server})

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Back from `text`."""
        found = json.loads(text)
        unexplained = found.pop("unexplained")
        return cls(**found, unexplained=None if unexplained is None else (unexplained[0], unexplained[1]))


@dataclass(frozen=True, slots=True)
class Tally:
    """What the segment that began at offset *since* has brought up to and including offset *upto*.

    *nodes* and *relationships* are those at its beginning, or None.
    """

    upto: int
    since: int
    chain: str | None
    counters: Mapping[str, int] | None
    nodes: int | None = None
    relationships: int | None = None

    @classmethod
    def first(cls) -> Tally:
        """Of a graph that holds the position's node and nothing else."""
        return cls(-1, 0, "", {}, nodes=1, relationships=0)

    @classmethod
    def unknown(cls, offset: int) -> Tally:
        """Of a graph at *offset* that does not say how it came there."""
        return cls(offset, (offset + 1) // INTERVAL * INTERVAL, None, None)

    def due(self, offset: int) -> bool:
        """Whether a command at *offset* lies behind the end of this segment."""
        return offset // INTERVAL > self.since // INTERVAL

    def plus(self, offset: int, counted: Mapping[str, int], rejected: Iterable[Outcome]) -> Tally:
        """After a transaction whose last command was at *offset*."""
        counters = None if self.counters is None else dict(Counter(self.counters) + Counter(counted))
        return replace(self, upto=offset, counters=counters, chain=_chained(self.chain, rejected))

    def at(self, offset: int) -> Tally:
        """The same, read from a graph at *offset*: the counters of what came after this was written are lost."""
        return self if self.upto == offset else replace(self, upto=offset, counters=None)

    def closed(self, offset: int, nodes: int, relationships: int, server: str) -> tuple[Checkpoint, Tally]:
        """End the segment before the command at *offset*, with what the graph holds just then."""
        before = offset // INTERVAL * INTERVAL
        unexplained = self._unexplained(nodes, relationships)
        checkpoint = Checkpoint(before, nodes, relationships, self.chain, self.counters, unexplained, server)
        return checkpoint, Tally(self.upto, before, "", {}, nodes, relationships)

    def _unexplained(self, nodes: int, relationships: int) -> tuple[int, int] | None:
        if self.counters is None or self.nodes is None or self.relationships is None:
            return None
        counted = Counter(self.counters)
        explained_nodes = self.nodes + counted["nodes_created"] - counted["nodes_deleted"]
        explained = self.relationships + counted["relationships_created"] - counted["relationships_deleted"]
        return nodes - explained_nodes, relationships - explained

    def text(self) -> str:
        """As the graph keeps it."""
        known = {"chain": self.chain, "counters": _sorted(self.counters)}
        at_begin = {"nodes": self.nodes, "relationships": self.relationships}
        return json.dumps({"upto": self.upto, "since": self.since, **known, **at_begin})

    @classmethod
    def parse(cls, text: str | None, offset: int) -> Tally:
        """Back from `text`, which a graph at *offset* holds or does not."""
        return cls.unknown(offset) if text is None else cls(**json.loads(text)).at(offset)


def kept(checkpoints: Iterable[Checkpoint], published: int) -> tuple[Checkpoint, ...]:
    """Those that a graph keeps when outcomes are known to be published up to the offset *published*."""
    found = tuple(checkpoints)
    return tuple(one for one in found[:-KEPT] if one.before > published) + found[-KEPT:]


def _chained(chain: str | None, rejected: Iterable[Outcome]) -> str | None:
    for outcome in rejected:
        if chain is None:
            return None
        chain = blake2b(f"{chain} {outcome.offset} {outcome.code}".encode(), digest_size=16).hexdigest()
    return chain


def _sorted(counters: Mapping[str, int] | None) -> dict[str, Any] | None:
    return None if counters is None else dict(sorted(counters.items()))
