"""What the commands between two multiples of 1,024 offsets did here, in short.  Pure.

Replicas that were given the same commands can tell by it whether they did the same.  It depends on the commands alone,
never on how a replica cut its transactions: no transaction crosses such a multiple, and the first one behind it writes
down, before its own commands run, how the segment before has ended.

The counters of a transaction that needs one round trip are known only after its commit, and so are written down by a
later one.  A crash in between loses them for the segments of what was under way, and for no other: their checkpoints
say that they are unknown.  The chain of rejected outcomes, and the numbers of nodes and relationships, are always
exact.
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
    *nodes* and *relationships* are None where other logs are applied to the same graph, each at its own pace.
    *unexplained* is how many nodes and relationships there are beyond what the counters account for; as long as they
    are not counted, minus what there should be.
    """

    before: int
    nodes: int | None
    relationships: int | None
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
            pairs.append(("rejected commands (chain)", self.chain, other.chain))
            if self.counters is not None and other.counters is not None:
                names = sorted(self.counters.keys() | other.counters.keys())
                pairs += [(name, self.counters.get(name, 0), other.counters.get(name, 0)) for name in names]
        known = (pair for pair in pairs if None not in pair)
        return [f"{name}: {mine} and {theirs}" for name, mine, theirs in known if mine != theirs]

    def counted(self, nodes: int | None, relationships: int | None) -> Checkpoint:
        """The same once the graph is counted; None: it cannot be known."""
        unexplained = None
        if self.unexplained is not None and nodes is not None and relationships is not None:
            unexplained = nodes + self.unexplained[0], relationships + self.unexplained[1]
        return replace(self, nodes=nodes, relationships=relationships, unexplained=unexplained)

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

    def closed(self, offset: int, server: str) -> tuple[Checkpoint, Tally]:
        """End the segment before the command at *offset*; what the graph holds just then is to be counted."""
        before = offset // INTERVAL * INTERVAL
        checkpoint = Checkpoint(before, None, None, self.chain, self.counters, self._unexplained(), server)
        return checkpoint, Tally(self.upto, before, "", {})

    def counted(self, nodes: int | None, relationships: int | None) -> Tally:
        """The same once the graph is counted at its beginning; None: it cannot be known."""
        return replace(self, nodes=nodes, relationships=relationships)

    def _unexplained(self) -> tuple[int, int] | None:
        if self.counters is None or self.nodes is None or self.relationships is None:
            return None
        counted = Counter(self.counters)
        nodes = self.nodes + counted["nodes_created"] - counted["nodes_deleted"]
        relationships = self.relationships + counted["relationships_created"] - counted["relationships_deleted"]
        return -nodes, -relationships

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
