"""The bytes of a snapshot: what was written is what is read, or an error says that it is not."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replica import snapshot, values
from replica.errors import SnapshotBroken, SnapshotStoreAway, SnapshotUnknown
from replica.snapshot_format import (
    BLOCK_BYTES,
    BLOCK_ELEMENTS,
    NODES,
    RELATIONSHIPS,
    VERSION,
    Header,
    Position,
    Schema,
    Sink,
    Source,
)
from replica.snapshot_stores import FolderStore, open_store


if TYPE_CHECKING:
    from pathlib import Path

plain = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text() | st.binary()
properties = st.dictionaries(st.text(min_size=1), plain | st.lists(st.integers(-(2**63), 2**63 - 1)), max_size=4)
nodes = st.lists(st.tuples(st.lists(st.text()), properties), min_size=1, max_size=5)


def header(node_count: int, relationship_count: int, *, version: int = VERSION) -> Header:
    """A header of a graph of that size."""
    return Header(
        id="id",
        format=version,
        neo4j="5.26.12",
        created_at="2026-01-01T00:00:00+00:00",
        position=Position("log", "topic-id", 0, 41),
        nodes=node_count,
        relationships=relationship_count,
        schema=Schema({"c": "CREATE CONSTRAINT c ..."}, {}, {}, [["c", None]]),
        marker={"offset": 41, "anything": ["else"]},
    )


def written(node_rows: list[Any], relationship_rows: list[Any]) -> bytes:
    """A snapshot of these elements."""
    file = io.BytesIO()
    sink = Sink(file, header(len(node_rows), len(relationship_rows)))
    for labels, found in node_rows:
        sink.add(NODES, [(labels, values.encode(found))])
    for kind, start, end, found in relationship_rows:
        sink.add(RELATIONSHIPS, [(kind, start, end, values.encode(found))])
    sink.end()
    return file.getvalue()


def read(data: bytes) -> list[list[Any]]:
    """All elements of it, decoded; relationships after nodes."""
    source = Source(io.BytesIO(data), "test")
    return [element for block in source.blocks() for element in snapshot.elements(block, source.header, "test")]


def verified(data: bytes) -> None:
    """What `snapshot verify` does."""
    snapshot.verify(io.BytesIO(data), "test", lambda *_: None)


@given(nodes=nodes)
def test_elements_come_back_as_they_were(nodes: list[tuple[list[str], dict[str, Any]]]) -> None:
    """Every label, type, number and value, in order; the comparison is by encoded form, since NaN equals nothing."""
    relationships = [("KNOWS", number, 0, found) for number, (_, found) in enumerate(nodes)]

    found = read(written(nodes, relationships))

    expected = [[labels, props] for labels, props in nodes] + [list(one) for one in relationships]
    assert [values.encode(one) for one in found] == [values.encode(one) for one in expected]


@given(nodes=nodes)
def test_a_block_that_is_called_plain_has_nothing_to_decode(nodes: list[tuple[list[str], dict[str, Any]]]) -> None:
    """The short way of a reader, held against the long one, which looks at each value."""
    source = Source(io.BytesIO(written(nodes, [])), "test")

    for block in source.blocks():
        if block.plain:
            decoded = values.decode(block.elements)
            assert [values.encode(one) for one in decoded] == [values.encode(one) for one in block.elements]
            assert [type(value) for _, found in decoded for value in found.values()] == [
                type(value) for _, found in block.elements for value in found.values()
            ]


def test_a_typed_value_is_decoded_however_its_json_is_written() -> None:
    """An escape in the key, as another writer may make it, is seen too."""
    for key in (b"$type", b"\\u0024type"):
        element = msgspec.Raw(b'[["A"],{"n":{"' + key + b'":"Integer","_value":"9007199254740993"}}]')
        file = io.BytesIO()
        sink = Sink(file, header(1, 0))
        sink.add(NODES, cast("Any", [element]))
        sink.end()
        assert read(file.getvalue()) == [[["A"], {"n": 2**53 + 1}]]


def test_large_values_do_not_share_a_block() -> None:
    """Handed over together, they are cut as if they had come one by one."""
    value = "x" * (BLOCK_BYTES // 3)
    rows = [(["A"], {"n": n, "value": value}) for n in range(10)]
    file = io.BytesIO()
    sink = Sink(file, header(len(rows), 0))
    sink.add(NODES, rows)
    sink.end()

    assert file.getvalue() == written(rows, [])
    blocks = list(Source(io.BytesIO(file.getvalue()), "test").blocks())
    assert [len(block.elements) for block in blocks] == [3, 3, 3, 1]


def test_blocks_are_cut_and_numbered() -> None:
    """A block's first number is the count of the elements before it, for each kind."""
    count = BLOCK_ELEMENTS + 3
    data = written([([], {}) for _ in range(count)], [("T", 0, 1, {})])

    blocks = [(block.kind, block.first, len(block.elements)) for block in Source(io.BytesIO(data), "test").blocks()]

    assert blocks == [(NODES, 0, BLOCK_ELEMENTS), (NODES, BLOCK_ELEMENTS, 3), (RELATIONSHIPS, 0, 1)]


SAMPLE = written([(["A"], {"n": n}) for n in range(3)], [("T", 0, 1, {}), ("T", 1, 2, {"x": 1.5})])


@given(st.data())
def test_every_changed_bit_is_noticed(data: st.DataObject) -> None:
    """Wherever it is: in the beginning, the header, a description, a block or the end."""
    place = data.draw(st.integers(0, len(SAMPLE) - 1))
    changed = bytearray(SAMPLE)
    changed[place] ^= 1 << data.draw(st.integers(0, 7))

    with pytest.raises(SnapshotBroken):
        verified(bytes(changed))


@given(st.integers(0, len(SAMPLE) - 1))
def test_every_cut_is_noticed(length: int) -> None:
    """A file that ends too early, also between two frames."""
    with pytest.raises(SnapshotBroken):
        verified(SAMPLE[:length])


def test_what_follows_the_end_is_noticed() -> None:
    """Two snapshots in one file, for instance."""
    with pytest.raises(SnapshotBroken, match="goes on after its end"):
        verified(SAMPLE + SAMPLE)


def test_a_frame_that_was_left_out_is_noticed() -> None:
    """Each frame is whole by itself; only the checksum over all of them can tell."""
    long = written([([], {"n": n}) for n in range(2 * BLOCK_ELEMENTS)], [])
    source = io.BytesIO(long)
    blocks = Source(source, "test").blocks()
    places = [source.tell(), *(source.tell() for _ in blocks)]

    with pytest.raises(SnapshotBroken, match="its checksum or its counts differ"):
        verified(long[: places[0]] + long[places[1] :])


def test_a_newer_format_is_refused_by_its_number() -> None:
    """What it means is unknown, so nothing is guessed."""
    file = io.BytesIO()
    Sink(file, header(0, 0, version=VERSION + 1)).end()

    with pytest.raises(SnapshotBroken, match=f"has format {VERSION + 1}, and this version"):
        verified(file.getvalue())


def test_counts_that_were_announced_must_be_met() -> None:
    """Somebody wrote to the database while it was read."""
    with pytest.raises(SnapshotBroken, match="announces 2 nodes"):
        Sink(io.BytesIO(), header(2, 0)).end()


@pytest.mark.parametrize("element", [["T", 0, 9, {}], ["T", -1, 0, {}], ["T", 0, {}], [1, 0, 0, {}], ["T", 0, 0, []]])
def test_a_relationship_that_leads_nowhere_is_noticed(element: list[Any]) -> None:
    """Before it is restored: to a node that there is not, or of a shape that is none."""
    file = io.BytesIO()
    sink = Sink(file, header(1, 1))
    sink.add(NODES, [([], {})])
    sink.add(RELATIONSHIPS, [element])
    sink.end()

    with pytest.raises(SnapshotBroken, match="cannot be restored"):
        verified(file.getvalue())


def test_a_reader_may_get_less_than_it_asks_for() -> None:
    """As a socket gives it."""

    class Trickle(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 1, 7))

    snapshot.verify(cast("BinaryIO", Trickle(SAMPLE)), "test", lambda *_: None)


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    """Not while it is written, not when writing fails, and then nothing is left."""
    store = FolderStore(tmp_path)

    def fail() -> None:
        with store.write("b.snapshot") as file:
            file.write(b"half")
            assert store.names() == []
            raise ValueError("out of coffee")

    with pytest.raises(ValueError, match="coffee"):
        fail()
    assert list(tmp_path.iterdir()) == []
    with store.write("a.snapshot") as file:
        file.write(b"whole")
    assert store.names() == ["a.snapshot"]


def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    """The lock tells them apart, and the kernel ends it with the process."""
    store = FolderStore(tmp_path)
    (tmp_path / ".dead.snapshot.partial").write_bytes(b"half")

    with store.write("living.snapshot") as file:
        file.write(b"whole")
        store.names()
        assert list(tmp_path.iterdir()) == [tmp_path / ".living.snapshot.partial"]

    assert store.names() == ["living.snapshot"]


@pytest.mark.parametrize("name", ["../a.snapshot", "/etc/passwd", ".hidden", ""])
def test_a_name_leads_nowhere_else(name: str, tmp_path: Path) -> None:
    """Names come from the command line."""
    store = open_store(tmp_path.as_uri())
    with pytest.raises(SnapshotUnknown), store.read(name):
        pass


def test_a_missing_mount_is_no_empty_store(tmp_path: Path) -> None:
    """The folder's parent has to be there."""
    store = FolderStore(tmp_path / "mount" / "snapshots")
    with pytest.raises(SnapshotStoreAway, match="cannot be used"), store.write("a.snapshot"):
        pass
