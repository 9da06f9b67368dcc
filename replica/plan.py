"""How commands are cut into transactions.  Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from replica import conditions, cypher, marker, remembering, values
from replica.alike import Alike
from replica.digest import INTERVAL
from replica.footprint import only_creates
from replica.remembering import remembered
from replica.statement import Outcome


if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from replica.statement import Command, Statement

#: Text and parameters of one transaction, in bytes.  Neo4j keeps a transaction's state in memory.
BATCH_BYTES: Final = 4_000_000

#: Our own codes.
REFUSED: Final = "Replica.NotACommand"
UNSUPPORTED: Final = "Replica.Unsupported"
UNNAMED: Final = "Replica.UnnamedSchema"
SKIPPED: Final = "Replica.Skipped"


class Kind(enum.Enum):
    """How a unit is applied."""

    BATCH = "batch"  # neighbours in one transaction
    ALONE = "alone"  # one command, because a neighbour in its transaction could change its meaning
    PIECES = "pieces"  # one command that commits in transactions of its own
    SCHEMA = "schema"  # one schema command, which cannot share a transaction with the position


@dataclass(frozen=True, slots=True)
class Unit:
    """Consecutive commands that are applied in one way; those of a batch in *groups*, unless some are left out."""

    kind: Kind
    commands: Sequence[Command]
    groups: Sequence[Group | Command] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """Neighbours with one statement of the same text and the same parameter types: one UNWIND may do them all."""

    text: str
    commands: Sequence[Command]

    @property
    def rewritten(self) -> str:
        """See `unwound`."""
        return unwound(self.text)

    @property
    def parameters(self) -> dict[str, Any]:
        """What that takes, of all commands."""
        if isinstance(self.commands, Alike):
            return _by_column(self.text, self.commands.columns.__getitem__)
        return columns(self.text, [command.statements[0].parameters for command in self.commands])


def verdict(command: Command) -> Outcome | None:
    """The rejected outcome of a command that no server needs to see, or None."""
    return None if command.shape is not None or _plain(command) is not None else _verdict(command)


def _verdict(command: Command) -> Outcome | None:
    if command.skipped is not None:
        return _rejected(command, SKIPPED, command.skipped)
    if command.refused is not None:
        return _rejected(command, REFUSED, command.refused)
    if not command.statements:
        return _rejected(command, REFUSED, "a command without a statement")
    for statement in command.statements:
        if reason := _refusal(command, statement):
            return _rejected(command, UNSUPPORTED, reason)
    if command.when is not None and (reason := _condition_refusal(command, command.when)):
        return _rejected(command, UNSUPPORTED, reason)
    return _schema_verdict(command) if is_schema(command) else None


def _plain(command: Command) -> cypher.Text | None:
    """The text of a command that is one statement with nothing special about it: so are most."""
    if len(command.statements) != 1 or command.when is not None:
        return None
    if command.skipped is not None or command.refused is not None:
        return None
    text = cypher.analyse(command.statements[0].text)
    return None if text.refusal is not None or text.own_transactions or text.schema else text


def _refusal(command: Command, statement: Statement) -> str | None:
    text = cypher.analyse(statement.text)
    if text.refusal is None and text.own_transactions:
        if not statement.idempotent:
            return cypher.OWN_TRANSACTIONS
        if len(command.statements) > 1:
            return "what commits in transactions of its own stands alone: nothing else can be applied together with it"
    return text.refusal


def _condition_refusal(command: Command, when: Statement) -> str | None:
    """A condition holds for one transaction, which has to be the one of its command."""
    if is_schema(command):
        return "a schema change has no condition: Neo4j does not change the schema in the transaction that would look"
    if any(cypher.analyse(statement.text).own_transactions for statement in command.statements):
        return "what commits in transactions of its own has no condition: it would hold for the first of them only"
    reason = conditions.refusal(when.text)
    return None if reason is None else f"the condition: {reason}"


def is_schema(command: Command) -> bool:
    """Tell whether a statement of *command* changes the schema."""
    return any(cypher.analyse(statement.text).schema for statement in command.statements)


def _schema_verdict(command: Command) -> Outcome | None:
    if len(command.statements) > 1:
        return _rejected(command, UNSUPPORTED, "a schema change stands alone: Neo4j does not mix it with anything else")
    statement = command.statements[0]
    name = cypher.schema_name(statement.text, statement.parameters)
    if name == marker.CONSTRAINT_NAME:
        return _rejected(command, UNSUPPORTED, f"{name} is the constraint that guards the replica's position")
    if name is None or not name.strip():  # a server takes a blank one for a failure of its own
        reason = "give the index or constraint a name: the names that Neo4j generates differ between its versions"
        return _rejected(command, UNNAMED, reason)
    return None


def _rejected(command: Command, code: str, message: str) -> Outcome:
    return Outcome(command.offset, applied=False, code=code, message=message)


def kind_of(command: Command) -> Kind:
    """How *command* must be applied."""
    if command.shape is not None:
        return Kind.BATCH
    plain = _plain(command)
    if plain is not None:
        return Kind.ALONE if plain.alone else Kind.BATCH
    if verdict(command) is not None:
        return Kind.BATCH
    if is_schema(command):
        return Kind.SCHEMA
    if any(cypher.analyse(statement.text).own_transactions for statement in command.statements):
        return Kind.PIECES
    return Kind.ALONE if any(cypher.analyse(s.text).alone for s in texts(command)) else Kind.BATCH


def texts(command: Command) -> tuple[Statement, ...]:
    """Everything of *command* that a server runs, its condition first."""
    return command.statements if command.when is None else (command.when, *command.statements)


def units(commands: Sequence[Command], *, batch: int) -> Iterator[Unit]:
    """Cut *commands* into units, in order; a batch has at most *batch* commands and about `BATCH_BYTES`.

    No unit crosses a multiple of `INTERVAL`, and none has two commands of one id.
    """
    if _are_one_group(commands, batch):
        yield Unit(Kind.BATCH, commands, [Group(commands[0].statements[0].text, commands)])
        return
    for kind, run in groupby(commands, key=kind_of):
        if kind is Kind.BATCH:
            yield from _batches(list(run), batch)
        else:
            yield from (Unit(kind, (command,)) for command in run)


def _are_one_group(commands: Sequence[Command], batch: int) -> bool:
    """Whether all of them have one shape, and go into one unit: so it is where a log is busy."""
    if not 1 < len(commands) <= batch or commands[0].offset // INTERVAL != commands[-1].offset // INTERVAL:
        return False
    if isinstance(commands, Alike):
        return commands.shape.key is not None and commands.weight <= BATCH_BYTES
    shape = commands[0].shape
    return (
        shape is not None
        and shape.key is not None
        and all(command.shape is shape for command in commands)
        and sum(command.weight for command in commands) <= BATCH_BYTES
    )


def _batches(commands: Sequence[Command], limit: int) -> Iterator[Unit]:
    chosen: list[Command] = []
    room = BATCH_BYTES
    ids: set[str] = set()
    for command in commands:
        weight = command.weight or _weight(command)
        behind = bool(chosen) and command.offset // INTERVAL != chosen[0].offset // INTERVAL
        again = command.id in ids  # whether it is a duplicate is known when the first one's transaction has ended
        if chosen and (len(chosen) >= limit or weight > room or behind or again):
            yield Unit(Kind.BATCH, chosen, groups(chosen))
            chosen, room = [], BATCH_BYTES
            ids.clear()
        chosen.append(command)
        room -= weight
        if command.id is not None:
            ids.add(command.id)
    if chosen:
        yield Unit(Kind.BATCH, chosen, groups(chosen))


def _weight(command: Command) -> int:
    return sum(len(statement.text) + values.size(statement.parameters) for statement in texts(command))


def groups(commands: Sequence[Command], apart: Container[int] = ()) -> list[Group | Command]:
    """Join neighbours where one UNWIND may do them; those rejected beforehand, and at offsets *apart*, stay alone."""
    found: list[Group | Command] = []
    for key, run in groupby(commands, key=lambda each: None if each.offset in apart else group_key(each)):
        neighbours = tuple(run)
        if key is None or len(neighbours) == 1:
            found += neighbours
        else:
            found.append(Group(neighbours[0].statements[0].text, neighbours))
    return found


def group_key(command: Command) -> tuple[str, Any] | None:
    """What *command* has in common with others that one UNWIND may do; None where none may."""
    if command.shape is not None:
        return command.shape.key
    if _plain(command) is None:  # it shares no transaction, or is rejected in it
        return None
    statement = command.statements[0]
    parameters = statement.parameters
    kinds = tuple(map(type, parameters.values()))
    if len(statement.text) <= remembering.LENGTH and SCALARS.issuperset(kinds):
        return key_of_scalars(statement.text, tuple(parameters), kinds)
    return (statement.text, types(statement)) if _groupable(statement.text, parameters.keys()) else None


def _groupable(text: str, names: AbstractSet[str]) -> bool:
    found = cypher.analyse(text)
    return found.wrappable and not found.alone and bool(found.parameters) and found.parameters <= names


@lru_cache(maxsize=4096)
def key_of_scalars(text: str, names: tuple[str, ...], kinds: tuple[type, ...]) -> tuple[str, Any] | None:
    """What neighbours with scalar parameters have in common that one UNWIND may do; None where none may.

    The same object for all of them, so that comparing them costs nothing.
    """
    if not _groupable(text, frozenset(names)):
        return None
    return text, tuple(sorted(zip(names, kinds, strict=True), key=lambda pair: pair[0]))


def types(statement: Statement) -> tuple[tuple[str, Any], ...]:
    """The types of the parameters as the server sees them.

    It compiles a text against them (`abs($s)` fails for a string even where no row reaches it), while in a rewritten
    text their types are unknown to it; so whatever is proven about a text holds for one set of types.
    """
    return tuple((name, _type(value)) for name, value in sorted(statement.parameters.items()))


#: Types whose values are all the same to the server.
SCALARS: Final = frozenset({str, int, float, bool, type(None)})


def _type(value: Any) -> Any:
    if isinstance(value, list):
        return ("list", frozenset(_type(item) for item in value))
    return type(value)


def wrapped(text: str) -> str:
    """*text* as a subquery that leaves exactly one row, whatever it returns."""
    return f"CALL () {{ CALL () {{\n{cypher.body(text)}}} RETURN count(*) AS __n }}"


def unwound(text: str) -> str:
    """*text* as a subquery that runs once for each row of `$__columns`, each run seeing the ones before; one row."""
    return _turned(text)[0]


def columns(text: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The parameters of `unwound`: of each parameter of *text*, its value in all *rows*."""
    return _by_column(text, lambda name: (row[name] for row in rows))


def _by_column(text: str, values: Callable[[str], Iterable[Any]]) -> dict[str, Any]:
    return {"__columns": [_Values(values(name)) for name in _turned(text)[1]]}


class _Values(list[Any]):
    """Those of one parameter.  The driver writes down all that it sends, for a log that is mostly off, in Python."""

    def __repr__(self) -> str:
        return f"<{len(self)} values>"


@remembered
def _turned(text: str) -> tuple[str, Sequence[str]]:
    names = cypher.sorted_parameters(text)
    inner = cypher.body(cypher.parameters_to_columns(text, "__columns", names, "__row"))
    if not only_creates(text):  # what one run leaves is there for the next one, and each leaves one row
        inner = f"CALL (__row) {{ CALL (__row) {{\n{inner}}} RETURN count(*) AS __n }}"
    unwind = "UNWIND range(0, size($__columns[0]) - 1) AS __row"
    return f"CALL () {{ {unwind} {inner} RETURN count(*) AS __done }}", names
