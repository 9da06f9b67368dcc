"""Every Neo4j value as JSON and back, without loss.

null, booleans, strings, lists, finite floats and integers up to 2^53 in size stay plain JSON, and so do maps.  What
plain JSON cannot say is Neo4j's typed JSON, `{"$type": ..., "_value": ...}`:

    Integer          "9007199254740993"                       beyond 2^53
    Float            "NaN" | "Infinity" | "-Infinity"
    Base64           "aGk="
    Date             "2024-02-29"
    Time, LocalTime  "12:00:00.000000001+01:00"               LocalTime without the offset
    OffsetDateTime   "2024-02-29T12:00:00+01:00"
    ZonedDateTime    "2024-02-29T12:00:00+01:00[Europe/Paris]"
    LocalDateTime    "2024-02-29T12:00:00"
    Duration         "P14M3DT4.500000000S"                    months, days, seconds
    Point            "SRID=7203;POINT (1.0 2.0)"              POINT Z with three coordinates
    Vector           {"coordinatesType": "FLOAT32", "coordinates": ["1.0", ...]}
    Node             {"_element_id", "_labels", "_properties"}
    Relationship     {"_element_id", "_start_node_element_id", "_end_node_element_id", "_type", "_properties"}
    Path             [Node, Relationship, Node, ...]
    Map              {...}                                    only for a map that itself has the key "$type"
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import neo4j
from neo4j import graph, spatial, vector
from neo4j.time import Date, DateTime, Duration, Time

from replica import temporal
from replica.errors import ValueNotDecodable, ValueNotEncodable


if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

#: Beyond this size JavaScript and others round integers.
SAFE_INTEGER: Final = 2**53
#: Neo4j's integers.
_LARGEST: Final = 2**63 - 1
#: JSON nested deeper than this ends Python's own encoder; Neo4j stores no nested lists at all.
_MAX_DEPTH: Final = 100

_POINTS: Final[Mapping[int, tuple[type[spatial.Point], int]]] = {
    7203: (spatial.CartesianPoint, 2),
    9157: (spatial.CartesianPoint, 3),
    4326: (spatial.WGS84Point, 2),
    4979: (spatial.WGS84Point, 3),
}
_VECTOR_TYPES: Final[Mapping[str, str]] = {
    "i8": "INTEGER8",
    "i16": "INTEGER16",
    "i32": "INTEGER32",
    "i64": "INTEGER64",
    "f32": "FLOAT32",
    "f64": "FLOAT64",
}


@dataclass(frozen=True, slots=True)
class Node:
    """A node as it was read; its id means something on that replica only."""

    element_id: str
    labels: frozenset[str]
    properties: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Relationship:
    """A relationship as it was read."""

    element_id: str
    start_element_id: str
    end_element_id: str
    type: str
    properties: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Path:
    """Nodes and relationships in the order of the path; *nodes* has one more."""

    nodes: tuple[Node, ...]
    relationships: tuple[Relationship, ...]


def encode(value: Any, path: str = "value") -> Any:
    """Give a JSON-able form of *value*; `json.dumps(..., allow_nan=False)` succeeds on it.

    Raises `ValueNotEncodable`, whose message begins with *path* and the way from there to the culprit.
    """
    if type(value) is int and -SAFE_INTEGER <= value <= SAFE_INTEGER:
        return value
    return _encode(value, path, 0)


def decode(value: Any, path: str = "value") -> Any:
    """The inverse of `encode`: Python scalars, `neo4j.time`, `neo4j.spatial` and the classes of this module.

    Raises `ValueNotDecodable` for an unknown type or a malformed value.
    """
    return _decode(value, path, 0)


#: What `size` says of numbers, and of whatever it knows no better.
_NUMBER: Final = 8
_NUMBERS: Final = frozenset({int, float, bool, type(None)})


def size(value: Any) -> int:
    """About how many bytes the encoded *value* takes as JSON; cheap, for limits."""
    if isinstance(value, str):
        return len(value) + 3
    if isinstance(value, dict):
        found = 2
        for key, item in value.items():
            found += len(key) + 4
            if type(item) is str:
                found += len(item) + 3
            else:
                found += _NUMBER if type(item) in _NUMBERS else size(item)
        return found
    if isinstance(value, (list, tuple)):
        return 2 + sum(size(item) for item in value)
    return len(value) if isinstance(value, (bytes, bytearray)) else _NUMBER


def _typed(kind: str, value: Any) -> dict[str, Any]:
    return {"$type": kind, "_value": value}


def _encode(value: Any, path: str, depth: int) -> Any:
    if value is None or value is True or value is False:
        return value
    if depth > _MAX_DEPTH:
        raise ValueNotEncodable(f"{path}: nested deeper than {_MAX_DEPTH}")
    kind: Any = type(value)
    encoder = _find_encoder(kind)
    if encoder is None:
        raise ValueNotEncodable(f"{path}: a {type(value).__name__} has no place in Neo4j")
    try:
        return encoder(value, path, depth)
    except ValueNotEncodable:
        raise
    except (ValueError, OverflowError, AttributeError, TypeError) as error:
        raise ValueNotEncodable(f"{path}: {error}") from error


def _integer(value: int, path: str, _depth: int) -> Any:
    if not -_LARGEST - 1 <= value <= _LARGEST:
        raise ValueNotEncodable(f"{path}: an integer of more than 64 bits")
    return int(value) if abs(value) <= SAFE_INTEGER else _typed("Integer", str(int(value)))


def _float(value: float, _path: str, _depth: int) -> Any:
    if math.isfinite(value):
        return float(value)
    return _typed("Float", "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity")


def _string(value: str, path: str, _depth: int) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueNotEncodable(f"{path}: not valid Unicode (a lone surrogate)") from error
    return str(value)


def _bytes(value: bytes, _path: str, _depth: int) -> Any:
    return _typed("Base64", base64.b64encode(value).decode())


def _time(value: Any, _path: str, _depth: int) -> Any:
    text = temporal.clock_text(value)
    if value.tzinfo is None:
        return _typed("LocalTime", text)
    return _typed("Time", text + temporal.offset_text(value))


def _datetime(value: Any, _path: str, _depth: int) -> Any:
    kind = (
        "LocalDateTime" if value.tzinfo is None else "ZonedDateTime" if temporal.zone_name(value) else "OffsetDateTime"
    )
    return _typed(kind, temporal.datetime_text(value))


def _point(value: spatial.Point, path: str, _depth: int) -> Any:
    if value.srid is None or value.srid not in _POINTS or _POINTS[value.srid][1] != len(value):
        raise ValueNotEncodable(f"{path}: a point in no coordinate system that Neo4j knows")
    coordinates = " ".join(repr(float(number)) for number in value)
    return _typed("Point", f"SRID={value.srid};POINT {'Z ' if len(value) == 3 else ''}({coordinates})")  # noqa: PLR2004


def _vector(value: vector.Vector, _path: str, _depth: int) -> Any:
    coordinates = [repr(number) for number in value.to_native()]
    return _typed("Vector", {"coordinatesType": _VECTOR_TYPES[value.dtype.value], "coordinates": coordinates})


def _list(value: Any, path: str, depth: int) -> list[Any]:
    return [_encode(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]


def _map(value: Mapping[Any, Any], path: str, depth: int) -> Any:
    encoded = {}
    for key, item in value.items():
        if not isinstance(key, str):
            raise ValueNotEncodable(f"{path}: the key {key!r} is no string")
        encoded[_string(key, path, depth)] = _encode(item, f"{path}.{key}", depth + 1)
    return _typed("Map", encoded) if "$type" in encoded else encoded


def _record(value: neo4j.Record, path: str, depth: int) -> Any:
    return _map(dict(zip(value.keys(), value, strict=True)), path, depth)


def _node(value: Node | graph.Node, path: str, depth: int) -> Any:
    properties = value.properties if isinstance(value, Node) else dict(value.items())
    labels = sorted(value.labels)
    return _typed(
        "Node",
        {"_element_id": value.element_id, "_labels": labels, "_properties": _properties(properties, path, depth)},
    )


def _relationship(value: Relationship | graph.Relationship, path: str, depth: int) -> Any:
    if isinstance(value, Relationship):
        start, end, properties = value.start_element_id, value.end_element_id, value.properties
    else:
        start, end = (node.element_id if node is not None else "" for node in value.nodes)
        properties = dict(value.items())
    return _typed(
        "Relationship",
        {
            "_element_id": value.element_id,
            "_start_node_element_id": start,
            "_end_node_element_id": end,
            "_type": value.type,
            "_properties": _properties(properties, path, depth),
        },
    )


def _properties(value: Mapping[str, Any], path: str, depth: int) -> dict[str, Any]:
    return {key: _encode(item, f"{path}.{key}", depth + 1) for key, item in value.items()}


def _path(value: Path | graph.Path, path: str, depth: int) -> Any:
    nodes: Sequence[Node | graph.Node] = value.nodes
    relationships: Sequence[Relationship | graph.Relationship] = value.relationships
    steps: list[Any] = [_node(nodes[0], path, depth)]
    for node, relationship in zip(nodes[1:], relationships, strict=True):
        steps += [_relationship(relationship, path, depth), _node(node, path, depth)]
    return _typed("Path", steps)


#: In this order: Duration, Point and Record are tuples, and a datetime is a date.
_ENCODERS: Final[tuple[tuple[tuple[type, ...], Callable[[Any, str, int], Any]], ...]] = (
    ((int,), _integer),
    ((float,), _float),
    ((str,), _string),
    ((bytes, bytearray), _bytes),
    ((Duration, dt.timedelta), lambda value, _path, _depth: _typed("Duration", temporal.duration_text(value))),
    ((spatial.Point,), _point),
    ((neo4j.Record,), _record),
    ((list, tuple), _list),
    ((dict,), _map),
    ((DateTime, dt.datetime), _datetime),
    ((Date, dt.date), lambda value, _path, _depth: _typed("Date", temporal.date_text(value))),
    ((Time, dt.time), _time),
    ((vector.Vector,), _vector),
    ((Node, graph.Node), _node),
    ((Relationship, graph.Relationship), _relationship),
    ((Path, graph.Path), _path),
)


#: What typed JSON and Python have in common.
_SAME: Final = frozenset({str, int, float, bool, type(None)})


@lru_cache(maxsize=256)  # the driver makes a class for each relationship type
def _find_encoder(kind: type) -> Callable[[Any, str, int], Any] | None:
    return next((encoder for kinds, encoder in _ENCODERS if issubclass(kind, kinds)), None)


def _decode(value: Any, path: str, depth: int) -> Any:
    if depth > 2 * _MAX_DEPTH:
        raise ValueNotDecodable(f"{path}: nested deeper than {2 * _MAX_DEPTH}")
    if isinstance(value, list):
        if _SAME.issuperset(map(type, value)):
            return value.copy()
        return [_decode(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    if "$type" not in value:
        return _decode_map(value, path, depth)
    kind, inner = value["$type"], value.get("_value")
    try:
        if kind in _DECODERS:
            return _DECODERS[kind](inner)
        if kind in _NESTED_DECODERS:
            return _NESTED_DECODERS[kind](inner, path, depth)
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, AttributeError) as error:
        if isinstance(error, ValueNotDecodable):
            raise
        raise ValueNotDecodable(f"{path}: malformed {kind}: {error}") from error
    raise ValueNotDecodable(f"{path}: unknown type {kind!r}")


def _decode_map(value: Mapping[str, Any], path: str, depth: int) -> dict[str, Any]:
    return {key: _decode(item, f"{path}.{key}", depth + 1) for key, item in value.items()}


def _decode_float(text: str) -> float:
    return float({"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}.get(text, text))


def _decode_integer(text: str) -> int:
    number = int(text)
    if not -_LARGEST - 1 <= number <= _LARGEST:
        raise ValueError(text)
    return number


def _decode_bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(text) from error


def _decode_point(text: str) -> spatial.Point:
    srid, separator, rest = text.removeprefix("SRID=").partition(";POINT ")
    make, dimensions = _POINTS[int(srid)]
    numbers = [float(number) for number in rest.removeprefix("Z ").removeprefix("(").removesuffix(")").split()]
    if not separator or len(numbers) != dimensions:
        raise ValueError(text)
    return make(numbers)


def _decode_vector(value: Mapping[str, Any]) -> vector.Vector:
    kind = next(short for short, name in _VECTOR_TYPES.items() if name == value["coordinatesType"])
    number = int if kind.startswith("i") else float
    make: Callable[..., vector.Vector] = vector.Vector
    return make([number(coordinate) for coordinate in value["coordinates"]], kind)


def _decode_node(value: Mapping[str, Any], path: str, depth: int) -> Node:
    properties = _decode_map(value["_properties"], path, depth)
    return Node(value["_element_id"], frozenset(value["_labels"]), properties)


def _decode_relationship(value: Mapping[str, Any], path: str, depth: int) -> Relationship:
    return Relationship(
        value["_element_id"],
        value["_start_node_element_id"],
        value["_end_node_element_id"],
        value["_type"],
        _decode_map(value["_properties"], path, depth),
    )


def _decode_path(value: list[Any], path: str, depth: int) -> Path:
    steps = [_decode(step, path, depth + 1) for step in value]
    return Path(tuple(steps[::2]), tuple(steps[1::2]))


_DECODERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "Integer": _decode_integer,
    "Float": _decode_float,
    "Base64": _decode_bytes,
    "Date": temporal.parse_date,
    "Time": temporal.parse_time,
    "LocalTime": temporal.parse_time,
    "OffsetDateTime": temporal.parse_datetime,
    "ZonedDateTime": temporal.parse_datetime,
    "LocalDateTime": temporal.parse_datetime,
    "Duration": temporal.parse_duration,
    "Point": _decode_point,
    "Vector": _decode_vector,
}
_NESTED_DECODERS: Final[Mapping[str, Callable[[Any, str, int], Any]]] = {
    "Map": _decode_map,
    "Node": _decode_node,
    "Relationship": _decode_relationship,
    "Path": _decode_path,
}
