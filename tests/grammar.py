"""Cypher statements made at random from a grammar: valid ones, mostly, written in every way that Cypher allows.

Values of clocks and random functions can be told apart from all others: no literal is a float below one, a UUID, or an
integer as large as a timestamp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

from replica.statement import Statement


if TYPE_CHECKING:
    from random import Random

T = TypeVar("T")

#: The graph that statements are made for; see `Grammar.statement`.
SETUP: Final = (
    "CREATE (a:F {k: 1, name: 'one', unit: 'month'})-[:R {w: 1}]->(b:F {k: 2, name: 'rand()', unit: 'hour'}),"
    " (b)-[:R {w: 2}]->(:F:G {k: 3, name: 'O\\'Neil', unit: 'day'})"
)

PARAMETERS: Final[dict[str, Any]] = {
    "p": 7,
    "q q": "text with 'quotes' and $p",
    "list": [3, 1, 2],
    "m": {"k": 5, "date": "2024-02-29"},
    "zone": "Asia/Tokyo",
    "day": "2024-02-29",
}

_CLOCKS: Final = ("date", "time", "localtime", "datetime", "localdatetime")
_FORMS: Final = ("", ".statement", ".transaction", ".realtime")
_UNITS: Final = {"date": "'month'", "time": "'hour'", "localtime": "'hour'"}
_ZONES: Final = ("'Europe/Paris'", "'+02:00'", "$zone")
_SPACES: Final = (" ", " ", " ", "\n", "\t", "  ", " /* rand() ' */ ", ' // timestamp() "\n')
_STRINGS: Final = (
    "'a'",
    '"b"',
    "'it\\'s'",
    '"\\"rand()\\""',
    "'// no comment'",
    "'/* none'",
    "'date()'",
    "'\\\\'",
    "''",
    "'é'",
)
_WRITES: Final = ("CREATE", "MERGE", "SET", "REMOVE", "FOREACH")
_NAMES: Final = ("`rand()`", "`date`", "timestamp", "limit", "x", "`a``b`", "order", "`// x`")


class Grammar:
    """Statements from one source of randomness."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._names = 0

    def statement(self) -> Statement:
        """A statement for the graph of `SETUP`, with the parameters that it uses."""
        self._names = 0
        text = self._pick("", "", "", "CYPHER 5 ", "CYPHER 5 planner=cost ") + self._body()
        if self._chance(0.1):
            text += self._space() + ";"
        return Statement(text, {name: value for name, value in PARAMETERS.items() if f"${name}" in text or "`" in text})

    def _body(self) -> str:
        scope: list[str] = []
        parts: list[str] = []
        for _ in range(self._random.randint(1, 3)):
            clause = self._clause(scope)
            if parts and parts[-1].startswith(_WRITES) and not clause.startswith((*_WRITES, "WITH")):
                parts.append(f"WITH *, 1 AS {self._new('v')}")  # Cypher 5 wants it between writing and reading
            parts.append(clause)
        if self._chance(0.8):
            items = [f"{self._expression(scope, 2)} AS {self._new('c')}" for _ in range(self._random.randint(1, 3))]
            parts.append(f"RETURN{self._space()}{', '.join(items)}")
        else:
            parts.append(self._write(scope))
        return self._space().join(parts)

    def _clause(self, scope: list[str]) -> str:
        make = self._pick(
            self._match, self._match, self._unwind, self._with, self._write, self._write, self._subquery, self._foreach
        )
        return str(make(scope))

    def _match(self, scope: list[str]) -> str:
        node = self._new("n")
        found = self._pick(f"MATCH ({node}:F)", f"MATCH ({node}:F {{k: 2}})", f"OPTIONAL MATCH ({node}:F)-[:R]->(:G)")
        if self._chance(0.4):
            found += f" WHERE {self._condition([*scope, node])}"
        scope.append(node)
        return found

    def _unwind(self, scope: list[str]) -> str:
        inner = f"[{self._expression(scope, 1)}, {self._expression(scope, 1)}]"
        items = self._pick("[1, 2]", "$list", "range(1, 3)", inner)
        name = self._new("v")
        scope.append(f"v:{name}")
        return f"UNWIND {items} AS {name}"

    def _with(self, scope: list[str]) -> str:
        name = self._new("v")
        text = f"WITH *, {self._expression(scope, 2)} AS {name}"
        scope.append(f"v:{name}")
        node = self._node(scope)
        if node and self._chance(0.4):
            text += f" ORDER BY {node}.k" + self._pick("", " LIMIT 2", " SKIP 1", " DESC LIMIT toInteger(2)")
        elif self._chance(0.3):
            text += f" WHERE {self._condition(scope)}"
        return text

    def _write(self, scope: list[str]) -> str:
        node = self._node(scope)
        value = self._expression(scope, 2)
        choices = [
            f"CREATE (:N {{{self._pick(*_NAMES)}: {value}}})",
            f"CREATE (:N)-[:S {{x: {value}}}]->(:N {{y: {self._expression(scope, 1)}}})",
            f"MERGE (:N {{k: {self._pick('1', '$p', value)}}})",
            f"MERGE ({self._new('m')}:N {{k: 1}}) ON CREATE SET {self._last('m')}.x = {value}",
        ]
        if node:
            choices += [
                f"SET {node}.{self._pick(*_NAMES)} = {value}",
                f"SET {node} += {{x: {value}}}",
                f"REMOVE {node}.name",
                f"SET {node}:Seen",
            ]
        return self._pick(*choices)

    def _foreach(self, scope: list[str]) -> str:
        name = self._new("v")
        return f"FOREACH ({name} IN [1, 2] | CREATE (:N {{x: {self._expression([*scope, f'v:{name}'], 1)}}}))"

    def _subquery(self, scope: list[str]) -> str:
        name = self._new("v")
        inner = f"{self._pick('', 'MATCH (i:F) ', 'CREATE (:N) ')}RETURN {self._expression([], 1)} AS {name}"
        scope.append(f"v:{name}")
        return f"CALL () {{{self._space()}{inner}{self._space()}}}" + self._pick("", " ")

    def _condition(self, scope: list[str]) -> str:
        node = self._node(scope)
        choices = ["true", "$p = 7", f"{self._expression(scope, 1)} IS NOT NULL", "EXISTS { MATCH (:F)-->(:G) }"]
        if node:
            choices += [f"{node}.k >= 1", f"{node}.name <> {self._pick(*_STRINGS)}", f"NOT ({node}.k = 9)"]
        return self._pick(*choices)

    def _expression(self, scope: list[str], depth: int) -> str:
        if depth and self._chance(0.4):
            return self._compound(scope, depth - 1)
        if self._chance(0.4):
            return self._call()
        node = self._node(scope)
        values = [name.removeprefix("v:") for name in scope if name.startswith("v:")]
        choices = ["1", "0x1F", "2.5", "null", "true", "$p", "$`q q`", "$list", "$m.k", self._pick(*_STRINGS), *values]
        if node:
            choices += [f"{node}.k", f"{node} . name", f"{node}.`rand()`"]
        return self._pick(*choices)

    def _compound(self, scope: list[str], depth: int) -> str:
        inner, other = self._expression(scope, depth), self._expression(scope, depth)
        node = self._node(scope)
        choices = [
            f"[{inner}, {other}]",
            f"({inner})",
            f"coalesce({inner},{self._space()}{other})",
            f"CASE WHEN {self._condition(scope)} THEN {inner} ELSE {other} END",
            f"toString({inner})",
            "[x IN [1, 2] | x * 2]",
            f"[x IN [1, 2] WHERE x > 1 | {inner}]",
            "reduce(a = 0, x IN [1, 2] | a + x)",
            f"size([{inner}])",
            f"{inner} IS NULL",
            f"COUNT {{ MATCH (:F) WHERE {self._condition([])} }}",
            f"[{inner}][0]",
            f"head([{inner}])",
            "date($day)",
            f"datetime({{year: 2024, month: {self._pick('1', '2')}}})",
        ]
        if node:
            choices += [
                f"{node} {{.k, x: {inner}}}.x",
                f"[({node})-->(o) | o.k]",
                "COLLECT { MATCH (o:F) RETURN o.k ORDER BY o.k }",
            ]
        return self._pick(*choices)

    def _call(self) -> str:
        kind = self._pick(*_CLOCKS)
        return self._pick(
            self._spelled("timestamp") + "()",
            self._spelled("rand") + "()",
            self._spelled("randomUUID") + "()",
            f"{self._spelled(kind)}{self._pick(*_FORMS)}{self._gap()}({self._gap()})",
            f"{self._spelled(kind)}({{timezone:{self._space()}{self._pick(*_ZONES)}}})",
            f"{kind}{self._pick('.statement', '.transaction')}({self._pick(*_ZONES)})",
            f"{kind}.truncate({_UNITS.get(kind, self._pick(chr(39) + 'month' + chr(39), chr(39) + 'day' + chr(39)))})",
            f"`{kind}`()",
        )

    def _spelled(self, name: str) -> str:
        return self._pick(name, name, name.upper(), name.capitalize())

    def _node(self, scope: list[str]) -> str:
        nodes = [name for name in scope if not name.startswith("v:")]
        return self._pick(*nodes) if nodes else ""

    def _new(self, letter: str) -> str:
        self._names += 1
        return f"{letter}{self._names}"

    def _last(self, letter: str) -> str:
        return f"{letter}{self._names}"

    def _space(self) -> str:
        return self._pick(*_SPACES)

    def _gap(self) -> str:
        return self._pick("", "", *_SPACES)

    def _chance(self, share: float) -> bool:
        return self._random.random() < share

    def _pick(self, *choices: T) -> T:
        return self._random.choice(choices)


def damaged(text: str, random: Random) -> str:
    """*text* with a few characters gone, doubled, or put in: hardly ever valid."""
    characters = list(text)
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(characters) + 1)
        action = random.randrange(3)
        if action == 0:
            characters[at : at + random.randint(1, 4)] = []
        else:
            characters.insert(
                at, random.choice(["'", '"', "`", "(", ")", "}", "/*", "*/", "//", "\\", "$", ";", "\u200b"])
            )
    return "".join(characters)
