"""Neo4j's values the way people read them.  Pure.

A text stands for itself; within anything else it has quotes::

    (:User {name: "x"})    [:KNOWS {since: 2020}]    (:User)-[:KNOWS]->(:User)    point({x: 1.0, y: 2.0})    {a: [1, 2]}
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from neo4j.spatial import Point

from replica import values
from replica.values import Node, Path, Relationship


if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NULL = "NULL"

#: Bytes of a byte array that are shown.
SHOWN_BYTES = 16

_AXES = {7203: "xy", 9157: "xyz", 4326: ("longitude", "latitude"), 4979: ("longitude", "latitude", "height")}
_PLAIN_NAME = re.compile(r"[^\W\d]\w*")

#: Whatever moves a terminal's cursor or changes its colours: data must not.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def cell(value: Any) -> str:
    """*value* in one cell of a table: one line, nothing that a terminal would obey."""
    return one_line(value) if isinstance(value, str) else text(value)


def one_line(value: str) -> str:
    """*value* with control characters as escapes."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", value)


def text(value: Any) -> str:
    """*value* as Cypher would write it, or nearly."""
    if hasattr(value, "iso_format"):
        return str(value.iso_format())
    write = next((write for kind, write in _WRITERS if isinstance(value, kind)), str)
    return one_line(write(value))


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _bytes(value: bytes) -> str:
    return f"0x{value[:SHOWN_BYTES].hex()}{'…' if len(value) > SHOWN_BYTES else ''}"


def _list(value: list[Any]) -> str:
    return f"[{', '.join(map(text, value))}]"


def _node(node: Node) -> str:
    labels = "".join(f":{name(label)}" for label in sorted(node.labels))
    return " ".join(part for part in (labels, _properties(node.properties)) if part)


def _relationship(relationship: Relationship) -> str:
    return " ".join(part for part in (f":{name(relationship.type)}", _properties(relationship.properties)) if part)


def _path(path: Path) -> str:
    drawn = f"({_node(path.nodes[0])})"
    for at, relationship, following in zip(path.nodes, path.relationships, path.nodes[1:], strict=False):
        forward = relationship.start_element_id == at.element_id
        left, right = ("-", "->") if forward else ("<-", "-")
        drawn += f"{left}[{_relationship(relationship)}]{right}({_node(following)})"
    return drawn


def _point(point: Point) -> str:
    axes = _AXES.get(point.srid or 0, "xyz")
    return f"point({{{', '.join(f'{axis}: {number}' for axis, number in zip(axes, point, strict=False))}}})"


def _properties(properties: Mapping[str, Any]) -> str:
    # Sorted: a database gives them in no order, and two replicas should look the same.
    return _map(dict(sorted(properties.items()))) if properties else ""


def _map(entries: Mapping[str, Any]) -> str:
    return f"{{{', '.join(f'{name(key)}: {text(value)}' for key, value in entries.items())}}}"


#: Kind → how it is written; the first match counts, so a kind stands before what it derives from.
_WRITERS: tuple[tuple[type[Any], Callable[[Any], str]], ...] = (
    (type(None), lambda _value: NULL),
    (bool, lambda value: str(value).lower()),
    (str, _quoted),
    (Node, lambda value: f"({_node(value)})"),
    (Relationship, lambda value: f"[{_relationship(value)}]"),
    (Path, _path),
    (Point, _point),
    (bytes, _bytes),
    (dict, _map),
    (list, _list),
)


def name(given: str) -> str:
    """A label, type or property name, with quotes where Cypher needs them."""
    return given if _PLAIN_NAME.fullmatch(given) else f"`{given.replace('`', '``')}`"


def is_number(value: Any) -> bool:
    """Whether *value* stands at the right of its column."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """*row* as typed JSON (see `replica.values`)."""
    return {column: values.encode(value, column) for column, value in row.items()}


def field(value: Any) -> str:
    """*value* in a field of CSV: a text as it is, NULL as nothing."""
    if value is None:
        return ""
    return value if isinstance(value, str) else text(value)
