"""`replica skip`: all replicas pass one held command over, or none does."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from brokers.errors import Unreachable
from ops.errors import NotSkipped
from ops.progress import Progress, Step, silent
from tasks import skipping
from tasks.decisions import skip_target


if TYPE_CHECKING:
    from tasks.app import App
    from tasks.decisions import Decision
    from tasks.skipping import Vote

#: Seconds for Kafka to answer, and for the reports to be read.
ASK_S = 8.0

#: Seconds between two looks at the replicas.
POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Skipped:
    """The command at *offset* is skipped on these *replicas*, and on all that will read the log."""

    offset: int
    reason: str
    by: str
    replicas: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)

    def as_text(self) -> str:
        """For people."""
        return f"Command {self.offset} is skipped by {', '.join(self.replicas)}: {self.reason} ({self.by})."


def skip(app: App, offset: int, reason: str, *, timeout_s: float, progress: Progress = silent) -> Skipped:
    """Decide that no replica applies the command at *offset*; every registered one has to agree within *timeout_s*.

    Raises:
      NotSkipped: nothing was decided, and why; nothing has changed.
      Unreachable, DeliveryUnknown: see `brokers.errors`; ask again, which does no harm.
    """
    topic_id = app.broker.topics.identity(app.command_topic.name)
    target = skip_target(topic_id, offset)
    _require_held(app, topic_id, offset)
    proposal = app.decisions.decide("skip", target, reason=reason)
    try:
        replicas = _agreed(app, topic_id, offset, proposal, time.monotonic() + timeout_s, progress)
    except BaseException:  # Ctrl-C too: replicas stand still as long as it is proposed
        _withdraw(app, proposal)
        raise
    decided = app.decisions.decide("skip", target, reason=reason, by=proposal.by, applies=True)
    progress(Step("skip", "decided", finished=True))
    return Skipped(offset, reason, decided.by, replicas)


def withdraw(app: App, offset: int) -> bool:
    """Take back a proposal that nobody decided, as a killed `skip` leaves one; whether there was one.

    Raises:
      NotSkipped: it is decided, and what replicas have skipped stays skipped.
    """
    topic_id = app.broker.topics.identity(app.command_topic.name)
    found = skipping.skips(app.decisions.look(), topic_id).get(offset)
    if found is None:
        return False
    if found.applies:
        raise NotSkipped(f"command {offset} is skipped already, by {found.by}: {found.reason}; that stays")
    app.decisions.withdraw("skip", found.target)
    return True


def _require_held(app: App, topic_id: str, offset: int) -> None:
    decided = skipping.skips(app.decisions.look(), topic_id).get(offset)
    if decided is not None and decided.applies:
        raise NotSkipped(f"command {offset} is skipped already, by {decided.by}: {decided.reason}")
    vote = _vote(app, topic_id, offset, None)
    if vote.passed:
        raise NotSkipped(_passed(vote, offset))
    if not vote.holding:
        raise NotSkipped(f"no replica holds command {offset}; `replica list` says what is held")


def _agreed(
    app: App, topic_id: str, offset: int, proposal: Decision, deadline: float, progress: Progress
) -> tuple[str, ...]:
    """Wait until every registered replica agrees; their names."""
    while True:
        vote = _vote(app, topic_id, offset, proposal)
        if vote.passed:
            raise NotSkipped(_passed(vote, offset))
        if vote.objections:
            raise NotSkipped(f"command {offset} cannot be skipped: {'; '.join(vote.objections)}")
        if vote.carried:
            return tuple(app.follower.replicas(ASK_S))
        if time.monotonic() > deadline:
            raise NotSkipped(
                f"command {offset} is not skipped: {', '.join(vote.missing)} did not agree in time. All have to"
                " come to it and stand still: start its worker and its database, resume it, or remove the replica"
            )
        progress(Step("skip", f"waiting for {', '.join(vote.missing)}"))
        time.sleep(POLL_S)


def _vote(app: App, topic_id: str, offset: int, proposal: Decision | None) -> Vote:
    positions = app.follower.replicas(ASK_S)
    if not positions:
        raise NotSkipped("no replica is registered")
    return skipping.vote(positions, app.follower.held(ASK_S), topic_id, offset, proposal)


def _passed(vote: Vote, offset: int) -> str:
    have = "has" if len(vote.passed) == 1 else "have"
    return (
        f"{', '.join(vote.passed)} {have} passed command {offset} already, so skipping it would make replicas differ:"
        " mend the replica that holds it, or make it anew from a snapshot"
    )


def _withdraw(app: App, proposal: Decision) -> None:
    """Unless another one has been made meanwhile, which is somebody else's."""
    try:
        if proposal in app.decisions.look():
            app.decisions.withdraw(proposal.kind, proposal.target)
    except Unreachable as exc:
        offset = proposal.target.rpartition("/")[2]
        raise NotSkipped(
            f"the proposal could not be withdrawn ({exc}), and replicas stand still in front of command {offset}: run"
            f" `replica skip {offset} --withdraw` when Kafka is back"
        ) from exc
