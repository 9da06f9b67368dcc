"""Compare the graphs of all replicas at one place of the log, and say in what they differ."""

from __future__ import annotations

import threading
import time
import uuid
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from brokers.replies import Place, TopicReader
from ops.connection import connected
from ops.progress import Step
from tasks import verified, verifying
from tasks.verified import Difference, Listed, OnlyOn, Reading, Request, Unverified, Verdict, Verified


if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from brokers.records import Record
    from ops.progress import Progress
    from settings import Settings
    from tasks.app import App

#: Seconds for Kafka to answer.
ASK_S: Final = 8.0

#: Exit codes: the graphs differ; or nobody can say.
DIFFER: Final = 5
UNVERIFIED: Final = 3

#: Elements that are shown at most.
SHOWN: Final = 100


@dataclass(frozen=True, slots=True)
class Row:
    """One replica.  *problem*: why nothing is known of its graph."""

    replica: str
    digest: str | None
    nodes: int | None
    relationships: int | None
    seconds: float | None
    problem: str = ""

    def cells(self) -> tuple[object, ...]:
        """For a table."""
        if self.digest is None:
            return self.replica, "", "", "", self.problem
        return self.replica, f"{self.nodes:,}", f"{self.relationships:,}", f"{self.seconds:.1f} s", self.digest


@dataclass(frozen=True, slots=True)
class Told:
    """What came out.  *offset*: after which command; *elements* are up to `SHOWN` of those that differ."""

    verdict: Verdict
    offset: int
    rows: tuple[Row, ...]
    difference: Difference
    elements: tuple[OnlyOn, ...] = ()

    @property
    def exit_code(self) -> int:
        """0, or one of those above."""
        return {"same": 0, "differ": DIFFER, "unverified": UNVERIFIED}[self.verdict]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "verdict": self.verdict,
            "offset": self.offset,
            "replicas": [asdict(row) for row in self.rows],
            "parts": [asdict(part) for part in self.difference.parts],
            "schema": [asdict(line) for line in self.difference.schema],
            "elements": [asdict(element) for element in self.elements],
        }

    def summary(self) -> str:
        """One line."""
        missing = [row.replica for row in self.rows if row.digest is None]
        if self.verdict == "same":
            return f"All {len(self.rows)} replicas hold the same graph after command {self.offset}."
        if self.verdict == "differ":
            unknown = f" Not verified: {', '.join(missing)}." if missing else ""
            return f"The replicas differ after command {self.offset}.{unknown}"
        if missing:
            return f"Not verified: nothing is known of {', '.join(missing)}."
        return "Not verified: it takes two replicas, of one version of this program, to compare."

    def details(self) -> list[tuple[str, str, str]]:
        """What differs: kind, what, and how often each replica has it."""
        parts = [(one.kind, one.name or "(no label)", _counts(one.counts)) for one in self.difference.parts]
        lines = [(one.kind, one.text, _counts(one.counts)) for one in (*self.difference.schema, *self.elements)]
        return parts + lines


def _counts(counts: Mapping[str, int]) -> str:
    if len(found := set(counts.values())) == 1:
        return f"{found.pop():,} on each, and not the same ones"
    return ", ".join(f"{replica}: {count}" for replica, count in counts.items())


def verify(settings: Settings, *, timeout_s: float, pause_s: float, show: Progress) -> Told:
    """Ask all registered replicas, and where they differ ask once more for the elements that do.

    Appliers wait while they read, *pause_s* at most.  Who does not answer within *timeout_s* is not verified.

    Raises:
      KafkaAway: no Kafka server answers.
    """
    with connected(settings) as app:
        registered = tuple(app.follower.replicas(ASK_S))
        first = _Question(app, registered, Request(uuid.uuid4().hex, pause_s, followed=True), show)
        first.ask(timeout_s)
        told = _told(first, registered)
        if told.verdict != "differ":
            return told
        # Also where no elements are to be listed: it is from this one that the replica that is wrong draws conclusions.
        request = Request(uuid.uuid4().hex, pause_s, dict(told.difference.wanted))
        second = _Question(app, tuple(first.found), request, show)
        second.ask(timeout_s)
        elements = verified.elements_that_differ(second.listed, sorted(second.found))[:SHOWN]
        return Told(told.verdict, told.offset, told.rows, told.difference, elements)


class _Question:
    """One request, and what the replicas answer."""

    def __init__(self, app: App, replicas: Iterable[str], request: Request, show: Progress) -> None:
        self.offset = -1
        self.found: dict[str, Verified] = {}
        self.listed: dict[str, list[Listed]] = {}
        self.problems: dict[str, str] = {}
        self._app = app
        self._replicas = frozenset(replicas)
        self._request = request
        self._show = show
        self._changed = threading.Condition()

    def ask(self, timeout_s: float) -> None:
        """Ask, and wait for all that can answer."""
        if not self._replicas:
            return
        self._standing_still()
        spec = self._app.verifications_topic
        self._app.broker.topics.ensure(spec)
        reader = TopicReader(self._app.broker.client_settings, [Place(spec.name)], self._heard, timeout_s=ASK_S)
        try:
            message: Any = self._app.broker.enqueue(verifying.message_for(self._app, self._request))
            self.offset = int(message.delivery.offset)
            self._wait(time.monotonic() + timeout_s)
        finally:
            reader.close()
        for replica in self._replicas - self.found.keys():
            self.problems.setdefault(replica, f"it has not read its graph within {timeout_s:g} s")

    def _standing_still(self) -> None:
        for decision in self._app.decisions.look():
            stands = decision.kind == "pause" or (decision.kind == "quarantine" and not decision.applies)
            if stands and decision.target in self._replicas:
                self.problems[decision.target] = f"{decision.kind}: {decision.reason}"

    def _wait(self, deadline: float) -> None:
        for replica in self._replicas - self.problems.keys():
            self._show(Step(replica, "comes to this place of the log"))
        with self._changed:
            while self._replicas - self.found.keys() - self.problems.keys():
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                self._changed.wait(left)

    def _heard(self, record: Record) -> None:
        answer = verified.answer_of(record.value)
        if answer is None or answer.id != self._request.id or answer.replica not in self._replicas:
            return
        with self._changed:
            match answer:
                case Reading():
                    step = Step(answer.replica, "reads its graph", answer.done, answer.total, "elements")
                case Listed():
                    self.listed.setdefault(answer.replica, []).append(answer)
                    return
                case Unverified():
                    self.problems[answer.replica] = answer.reason
                    step = Step(answer.replica, answer.reason, finished=True)
                case Verified():
                    self.found[answer.replica] = answer
                    step = Step(answer.replica, answer.digest, finished=True)
            self._changed.notify_all()
        self._show(step)


def _told(question: _Question, registered: Iterable[str]) -> Told:
    found = {name: question.found[name] for name in sorted(question.found)}
    rows = tuple(_row(name, found.get(name), question.problems.get(name, "")) for name in sorted(registered))
    verdict = verified.verdict_of(found, registered)
    differs = verified.difference(found) if verdict == "differ" else Difference()
    return Told(verdict, question.offset, rows, differs)


def _row(name: str, found: Verified | None, problem: str) -> Row:
    if found is None:
        return Row(name, None, None, None, None, problem)
    return Row(name, found.digest, found.nodes, found.relationships, found.seconds)
