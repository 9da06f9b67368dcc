"""Neighbours of different texts in one round trip, where their sequence comes back.  Pure.

What an application writes is mostly a few texts in the same order, again and again.  Each becomes a subquery of one
text, which runs them one after the other.  The server plans such a text for each sequence, which takes it a hundred
times as long as to run it, so it is made only of sequences that were seen before.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from replica import cypher, plan, remembering
from replica.remembering import remembered


if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence
    from typing import TypeAlias

    from replica.statement import Command

    #: What goes to the server in one round trip of a transaction.
    Item: TypeAlias = "plan.Group | Chain | Command"

#: Commands in a chain, at most; and one in so many texts ends the chain that it is in.
LONGEST, EVERY = 16, 8
#: How often a sequence is seen before it becomes a text, and of how many sequences a worker remembers that.
OFTEN, REMEMBERED = 4, 4096


@dataclass(frozen=True, slots=True)
class Chain:
    """Neighbours that one text may do, each with one statement."""

    commands: tuple[Command, ...]

    @property
    def rewritten(self) -> str:
        """Their texts as subqueries, one after the other; one row, `__done` in it."""
        return _chained(tuple(map(_text, self.commands)))

    @property
    def parameters(self) -> dict[str, Any]:
        """Those of each command, under its place and theirs."""
        return {
            _name(place, number): command.statements[0].parameters[name]
            for place, command in enumerate(self.commands)
            for number, name in enumerate(cypher.sorted_parameters(_text(command)))
        }


def members(item: Item) -> Sequence[Command]:
    """The commands of *item*."""
    return item.commands if isinstance(item, (plan.Group, Chain)) else (item,)


class Sequences:
    """Which sequences come back.  One thread at a time."""

    def __init__(self) -> None:
        self._seen: OrderedDict[int, int] = OrderedDict()

    def joined(self, items: Sequence[plan.Group | Command], apart: Container[int]) -> Iterator[Item]:
        """*items*, with neighbours chained where they have come in this order before; none of those at *apart*."""
        for neighbours in cut(items, apart):
            if isinstance(neighbours, plan.Group) or len(neighbours) == 1 or not self._often(neighbours):
                yield from [neighbours] if isinstance(neighbours, plan.Group) else neighbours
            else:
                yield Chain(neighbours)

    def _often(self, commands: Sequence[Command]) -> bool:
        """By a hash of texts and types: one too many that is made a text does no harm."""
        sequence = hash(tuple(map(plan.group_key, commands)))
        times = self._seen[sequence] = self._seen.pop(sequence, 0) + 1
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return times > OFTEN


def cut(
    items: Sequence[plan.Group | Command], apart: Container[int] = ()
) -> Iterator[plan.Group | tuple[Command, ...]]:
    """*items* in order, neighbours that one text may do together.

    Where they are cut depends on the texts, so that a sequence is cut alike wherever it begins.
    """
    chain: list[Command] = []
    length = 0
    for item in items:
        fits = not isinstance(item, plan.Group) and item.offset not in apart and _is_fit(item)
        if chain and (not fits or len(chain) == LONGEST or length > remembering.LENGTH or _is_end(_text(chain[-1]))):
            yield tuple(chain)
            chain, length = [], 0
        if isinstance(item, plan.Group):
            yield item
        elif fits:
            chain.append(item)
            length += len(_text(item))
        else:
            yield (item,)
    if chain:
        yield tuple(chain)


def _is_fit(command: Command) -> bool:
    return plan.group_key(command) is not None and len(_text(command)) <= remembering.LENGTH


def _text(command: Command) -> str:
    return command.statements[0].text


@remembered
def _is_end(text: str) -> bool:
    return zlib.crc32(text.encode(errors="replace")) % EVERY == 0


def _name(place: int, number: int) -> str:
    return f"__{place}_{number}"


@lru_cache(maxsize=1024)
def _chained(texts: tuple[str, ...]) -> str:
    return "\n".join(
        f"CALL () {{ CALL () {{\n{cypher.body(_renamed(text, place))}}} RETURN count(*) AS __{place or 'done'} }}"
        for place, text in enumerate(texts)
    )


def _renamed(text: str, place: int) -> str:
    names = cypher.sorted_parameters(text)
    return cypher.with_parameters(text, lambda name: f"${_name(place, names.index(name))}")
