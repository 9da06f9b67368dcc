from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from brokers.delays import delayed, delayed_topic
from brokers.records import Outgoing, Record
from brokers.waiting import Keys, Living, Wanted


SPEC = delayed_topic("p-")


def log_of(etas: list[int], ended: set[int]) -> list[Record]:
    """Messages on two queues, then a tombstone for each of *ended*."""
    log = []
    for number, eta in enumerate(etas):
        headers = {"message_id": b"m%d" % number, "actor": b"even" if number % 2 == 0 else b"odd"}
        sent = delayed(Outgoing(f"p-{number % 3}", b"v", None, headers), eta, SPEC)
        log.append(Record(SPEC.name, 0, number, 0, sent.key, sent.value, dict(sent.headers)))
    log += [Record(SPEC.name, 0, len(etas) + n, 0, log[n].key, None) for n in ended if n < len(etas)]
    return log


@given(st.lists(st.integers(0, 50), max_size=60), st.sets(st.integers(0, 59)), st.integers(0, 8), st.integers(0, 70))
def test_the_soonest_are_found_in_bounded_memory(etas: list[int], ended: set[int], limit: int, kept: int) -> None:
    """However many others there are, and however many of the sooner ones have ended."""
    log = log_of(etas, ended)
    living = Living(Wanted(), limit, kept)
    for record in log:
        living.take(record)
    if living.read_again:
        for record in log:
            if living.is_soon(record.key or b""):
                living.take_again(record)

    alive = sorted((eta, f"m{n}") for n, eta in enumerate(etas) if n not in ended)
    assert [entry.eta_ms for entry in living.soonest()] == [eta for eta, _ in alive[:limit]]
    assert {entry.message_id for entry in living.soonest()} <= {name for _, name in alive}
    assert living.by_topic() == Counter(f"p-{n % 3}" for n in range(len(etas)) if n not in ended)


@given(st.lists(st.integers(0, 50), max_size=30), st.sets(st.integers(0, 29)))
def test_what_is_wanted_is_what_fits_everything(etas: list[int], ended: set[int]) -> None:
    """Ids, queue and actor together."""
    keys = Keys(Wanted(frozenset({"m0", "m1", "m6", "m12"}), frozenset({"p-0"}), "even"))
    for record in log_of(etas, ended):
        keys.take(record)
    assert {key.split(b"/")[0] for key in keys.found} == {
        b"m%d" % n for n in (0, 6, 12) if n < len(etas) and n not in ended
    }
