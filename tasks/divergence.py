"""Who disagrees with whom, and who of them is wrong.  Pure.

Two replicas that were given the same commands and say different things of them have diverged, and the log cannot tell
which of them is right.  So the larger group of those that agree is believed.  Between groups of one size, a replica
whose graph holds something that its own commands do not account for is the wrong one: somebody wrote to it directly.
Where that does not decide either, nobody stops, since stopping all would mend nothing; all say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self, TypeVar


if TYPE_CHECKING:
    from collections.abc import Mapping


class Said(Protocol):
    """What a replica says of its graph at one place of the log."""

    @property
    def digest(self) -> str:
        """In short, for people."""
        ...

    @property
    def unexplained(self) -> tuple[int, int] | None:
        """Nodes and relationships beyond what its commands account for, where that is known."""
        ...

    def differences(self, other: Self, /) -> list[str]:
        """What the two do not agree on, in words."""
        ...


T = TypeVar("T", bound=Said)


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One replica's view: *others* say something else of the offsets *first* to *last*.

    *wrong*: it is this replica that has to stop.  *settled*: it is known who has to, this one or the others.
    """

    replica: str
    first: int
    last: int
    digests: Mapping[str, str]
    differences: Mapping[str, tuple[str, ...]]
    wrong: bool
    settled: bool

    def __str__(self) -> str:
        others = "; ".join(f"{name}: {', '.join(found)}" for name, found in self.differences.items())
        digests = ", ".join(f"{name} {digest}" for name, digest in self.digests.items())
        return (
            f"after the commands at offsets {self.first} to {self.last} {self.replica} differs from {others}"
            f" (digests: {digests}); {self._verdict()}"
        )

    def _verdict(self) -> str:
        if not self.settled:
            return "nothing shows which of them is wrong: `verify` says what differs, `replica repair` makes one anew"
        names = [self.replica] if self.wrong else list(self.differences)
        return f"wrong is {', '.join(names)}"


def judge(replica: str, said: Mapping[str, T], *, first: int, last: int) -> Disagreement | None:
    """What *replica* has to hold against itself or the others; none where all agree, or it has said nothing."""
    mine = said.get(replica)
    if mine is None:
        return None
    differ = {name: tuple(found) for name, one in sorted(said.items()) if (found := mine.differences(one))}
    if not differ:
        return None
    believed = max(_support(said[name], said) for name in differ)
    support = _support(mine, said)
    strange = _strange(mine)
    # Of those that are as many as we are: are they beyond reproach, or not?
    clean = any(not _strange(said[name]) for name in differ if _support(said[name], said) == believed)
    wrong = support < believed or (support == believed and strange and clean)
    settled = wrong or support > believed or (not strange and not clean)
    digests = {name: said[name].digest for name in (replica, *differ)}
    return Disagreement(replica, first, last, digests, differ, wrong, settled)


def _support(one: T, said: Mapping[str, T]) -> int:
    return sum(not one.differences(other) for other in said.values())


def _strange(one: Said) -> bool:
    return one.unexplained not in {None, (0, 0)}
