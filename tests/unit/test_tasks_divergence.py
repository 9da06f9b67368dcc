from __future__ import annotations

from dataclasses import replace

import pytest

from replica.digest import INTERVAL, Checkpoint
from tasks.checkpoints import Ledger
from tasks.divergence import Disagreement, judge


RIGHT = Checkpoint(INTERVAL, 43, 5, "chain", {"nodes_created": 42}, (0, 0), "Neo4j/1")
WRONG = replace(RIGHT, nodes=44)
STRANGE = replace(WRONG, unexplained=(1, 0))


def verdicts(**said: Checkpoint) -> dict[str, str]:
    """What each replica concludes."""
    found = {name: judge(name, said, first=0, last=INTERVAL - 1) for name in said}
    return {name: _word(one) for name, one in found.items()}


def _word(found: Disagreement | None) -> str:
    if found is None:
        return "agrees"
    return "stops" if found.wrong else "goes on" if found.settled else "undecided"


def test_replicas_that_say_the_same_agree() -> None:
    """Also where one of them has forgotten some of it."""
    assert verdicts(a=RIGHT, b=RIGHT) == {"a": "agrees", "b": "agrees"}
    assert verdicts(a=RIGHT, b=replace(RIGHT, counters=None, chain=None)) == {"a": "agrees", "b": "agrees"}


def test_the_minority_stops_and_the_others_go_on() -> None:
    """Whatever it is that differs."""
    assert verdicts(a=RIGHT, b=WRONG, c=RIGHT) == {"a": "goes on", "b": "stops", "c": "goes on"}
    for other in (replace(RIGHT, chain="x"), replace(RIGHT, counters={}), replace(RIGHT, relationships=4)):
        assert verdicts(a=RIGHT, b=RIGHT, c=other) == {"a": "goes on", "b": "goes on", "c": "stops"}


def test_of_two_nobody_stops_unless_one_shows_that_it_was_written_to() -> None:
    """To stop both would mend nothing; both say so."""
    assert verdicts(a=RIGHT, b=WRONG) == {"a": "undecided", "b": "undecided"}
    assert verdicts(a=RIGHT, b=STRANGE) == {"a": "goes on", "b": "stops"}
    assert verdicts(a=replace(RIGHT, unexplained=(0, 1)), b=STRANGE) == {"a": "undecided", "b": "undecided"}
    assert verdicts(a=replace(RIGHT, unexplained=None), b=STRANGE) == {"a": "goes on", "b": "stops"}


def test_of_three_that_all_differ_nobody_stops_without_a_reason() -> None:
    """There is no larger group; one that was written to is known all the same."""
    third = replace(RIGHT, nodes=45)
    assert set(verdicts(a=RIGHT, b=WRONG, c=third).values()) == {"undecided"}
    assert verdicts(a=RIGHT, b=STRANGE, c=third)["b"] == "stops"


def test_what_is_known_later_decides() -> None:
    """Two differ, nobody knows; the third comes there and the one that is alone stops."""
    ledger = Ledger()
    ledger.add("a", RIGHT)
    ledger.add("b", WRONG)
    assert _word(ledger.judge("b", INTERVAL)) == "undecided"
    ledger.add("c", RIGHT)
    assert _word(ledger.judge("b", INTERVAL)) == "stops"
    ledger.add("b", RIGHT)  # made anew, it came by again
    assert _word(ledger.judge("b", INTERVAL)) == "agrees"


def test_a_ledger_forgets_what_nobody_comes_by_any_more() -> None:
    """And nothing else."""
    ledger = Ledger(remembered=10)
    for number in range(1, 31):
        ledger.add("a", replace(RIGHT, before=number * INTERVAL))
    ledger.forget("a", behind=30 * INTERVAL)
    assert ledger.places() == [number * INTERVAL for number in range(20, 31)]
    ledger.forget("a")
    assert ledger.replicas(30 * INTERVAL) == []


def test_a_disagreement_names_range_digests_and_differences() -> None:
    """Everything that a person needs to look for the reason."""
    found = judge("b", {"a": RIGHT, "b": WRONG, "c": RIGHT}, first=0, last=INTERVAL - 1)
    text = str(found)
    for words in ("offsets 0 to 1023", "nodes: 44 and 43", RIGHT.digest, WRONG.digest, "wrong is b"):
        assert words in text


@pytest.mark.parametrize("names", [("a",), ()])
def test_one_voice_is_no_disagreement(names: tuple[str, ...]) -> None:
    """Nor none."""
    assert judge("a", dict.fromkeys(names, RIGHT), first=0, last=1) is None
