"""Skipping one held command, on every replica or on none.  Pure.

A decision lies on the decisions topic, since a held replica never reaches what lies behind in the log.  It is made in
two steps, as two replicas may do opposite things between the look and the decision otherwise:

1. *proposed*: a replica that comes to the command, and has not applied it, stands still in front of it and says so
   (`Holding.agreed_ms`); one that has applied it cannot agree.
2. *decided*, once every registered replica has agreed: the command ends as rejected, with the code `Replica.Skipped`
   and the decision's reason, the same on all of them, and on every replica that will ever read the log.

Withdrawn between the two, nothing has changed, and the command is tried again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace


if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from replica.statement import Command
    from tasks.decisions import Decision
    from tasks.outcomes import Holding

#: The codes that a replica holds with while a skip is proposed and not decided: it agrees, or it cannot.
PROPOSED: Final = "Replica.SkipProposed"
OBJECTED: Final = "Replica.SkipObjected"

#: Seconds until a replica that stands still asks again what was decided.
AGAIN_S: Final = 0.5


def skips(decisions: Iterable[Decision], topic_id: str) -> dict[int, Decision]:
    """The decisions to skip commands of that topic, by offset; what is none, or of another topic, is left out."""
    found: dict[int, Decision] = {}
    for decision in decisions:
        owner, _, offset = decision.target.rpartition("/")
        if decision.kind == "skip" and owner == topic_id == decision.topic_id and offset.isdecimal():
            found[int(offset)] = decision
    return found


def prepared(commands: Sequence[Command], found: Mapping[int, Decision]) -> tuple[Sequence[Command], Decision | None]:
    """*commands* as they are to be applied, and the proposal in front of which the replica has to stand still."""
    if not found:
        return commands, None
    ready: list[Command] = []
    for command in commands:
        decision = found.get(command.offset)
        if decision is not None and not decision.applies:
            return ready, decision
        ready.append(
            command
            if decision is None
            else replace(command, statements=(), shape=None, skipped=f"{decision.reason} ({decision.by})")
        )
    return ready, None


@dataclass(frozen=True, slots=True)
class Vote:
    """How the replicas stand to a proposal.

    *passed*: who has the command behind it; *missing*: who has not agreed yet; *holding*: who says why it holds it;
    *objections*: why a replica cannot agree.
    """

    passed: tuple[str, ...]
    missing: tuple[str, ...]
    holding: tuple[str, ...]
    objections: tuple[str, ...]

    @property
    def carried(self) -> bool:
        """Whether all have agreed."""
        return not self.passed and not self.missing


def vote(
    positions: Mapping[str, int], held: Mapping[str, Holding], topic_id: str, offset: int, proposal: Decision | None
) -> Vote:
    """Count for *proposal*, or before there is one; *positions* are those of all registered replicas."""
    at = {name: holding for name, holding in held.items() if (holding.topic_id, holding.offset) == (topic_id, offset)}
    agreed = {name for name, holding in at.items() if proposal is not None and holding.agreed_ms == proposal.at_ms}
    return Vote(
        passed=tuple(sorted(name for name, position in positions.items() if position >= offset)),
        missing=tuple(sorted(name for name in positions if name not in agreed)),
        holding=tuple(sorted(at)),
        objections=tuple(
            f"{name}: {holding.message}"
            for name, holding in sorted(at.items())
            if proposal is not None and holding.code == OBJECTED and holding.at_ms >= proposal.at_ms
        ),
    )
