"""Who waits for whom, without threads: a model of what goes, and in which order."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from brokers.company import KINDS, MOST, PATIENCE_S, Company
from tests.buffers import QUICK


@dataclass
class Gone:
    """Some messages on their way."""

    messages: list[int]
    out: bool = True


def test_who_finds_nobody_goes_at_once() -> None:
    """And others of its kind when it has ended, together, in the order in which they came."""
    company = Company[int]()
    company.join("a", 1, 0.0)
    assert company.go() == ("a", [1])
    company.went("a", gone := Gone([1]))
    for number in (2, 3, 4):
        company.join("a", number, 0.0)
    assert not company.may_go(0.0)
    assert company.go() is None
    gone.out = False
    assert company.may_go(0.0)
    assert company.go() == ("a", [2, 3, 4])


def test_not_too_many_go_together() -> None:
    """The others are next."""
    company = Company[int]()
    for number in range(MOST + 3):
        company.join("a", number, 0.0)
    assert company.go() == ("a", list(range(MOST)))
    assert company.waiting == 3


def test_kinds_do_not_wait_for_each_other() -> None:
    """Nor are those remembered for ever of which nothing is under way."""
    company = Company[int]()
    company.went("slow", Gone([0]))
    for number in range(2 * KINDS):
        company.join(number, number, 0.0)
        assert company.go() == (number, [number])
        company.went(number, Gone([number], out=False))
    assert len(company._under_way) <= KINDS + 1
    company.join("slow", 1, 0.0)
    assert company.go() is None


def test_nobody_waits_long() -> None:
    """Whoever has waited too long goes alone, and those behind wait on."""
    company = Company[int]()
    company.went("a", Gone([0]))
    company.join("a", 1, 0.0)
    company.join("a", 2, PATIENCE_S / 2)
    assert company.due_in(0.0) == PATIENCE_S
    assert company.late(PATIENCE_S / 2) == []
    assert company.may_go(PATIENCE_S)
    assert company.late(PATIENCE_S) == [1]
    assert (company.waiting, company.leave(), company.waiting) == (1, [2], 0)
    assert company.due_in(0.0) == float("inf")


class Companies(RuleBasedStateMachine):
    """Every message goes, once, in its kind's order, and never beside others of its kind but for being late."""

    def __init__(self) -> None:
        super().__init__()
        self.company = Company[int](patience_s=10.0, most=3)
        self.now = 0.0
        self.count = 0
        self.waiting: dict[str, list[tuple[float, int]]] = {"a": [], "b": [], "c": []}
        self.under_way: dict[str, Gone] = {}

    def busy(self, kind: str) -> bool:
        """Something of it is under way."""
        return kind in self.under_way and self.under_way[kind].out

    @rule(kind=st.sampled_from("abc"))
    def join(self, kind: str) -> None:
        """One comes."""
        self.count += 1
        self.company.join(kind, self.count, self.now)
        self.waiting[kind].append((self.now, self.count))

    @rule()
    def go(self) -> None:
        """Those of some kind go."""
        found = self.company.go()
        free = [kind for kind, line in self.waiting.items() if line and not self.busy(kind)]
        assert (found is None) == (not free)
        if found is not None:
            kind, messages = str(found[0]), found[1]
            assert kind in free
            assert messages == [number for _, number in self.waiting[kind][:3]]
            del self.waiting[kind][:3]
            self.under_way[kind] = Gone(messages)
            self.company.went(kind, self.under_way[kind])

    @rule()
    def late(self) -> None:
        """Those that have waited too long go alone."""
        expected = set()
        for kind, line in self.waiting.items():
            if self.busy(kind):
                expected |= {number for since, number in line if self.now - since >= 10.0}
                line[:] = [(since, number) for since, number in line if self.now - since < 10.0]
        found = self.company.late(self.now)
        assert (set(found), len(found)) == (expected, len(expected))

    @rule(seconds=st.floats(0.0, 6.0))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds

    @precondition(lambda self: any(gone.out for gone in self.under_way.values()))
    @rule(kind=st.sampled_from("abc"))
    def end(self, kind: str) -> None:
        """What is under way ends."""
        if kind in self.under_way:
            self.under_way[kind].out = False

    @invariant()
    def nothing_is_lost(self) -> None:
        """What has not gone waits, and it is known when it may go."""
        assert self.company.waiting == sum(map(len, self.waiting.values()))
        may = [
            line
            for kind, line in self.waiting.items()
            if line and (not self.busy(kind) or self.now - line[0][0] >= 10.0)
        ]
        assert self.company.may_go(self.now) == bool(may)


TestCompanies = Companies.TestCase
TestCompanies.settings = QUICK
