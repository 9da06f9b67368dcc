"""What people decide about replicas: pause, resume, quarantine, remove."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from confluent_kafka import KafkaException

from brokers import codes
from brokers.clients import AdminClient, opened
from brokers.records import Outgoing
from ops.errors import ReplicaAlive, ReplicaBusy, ReplicaUnknown
from ops.replicas import ASK_S, rows


if TYPE_CHECKING:
    from ops.replicas import ReplicaRow
    from tasks.app import App
    from tasks.decisions import Kind

#: Seconds that a running worker has to stand still, after which the caller is told that it has not yet.
STOP_S = 30.0

POLL_S = 0.2


def known(app: App, name: str) -> ReplicaRow:
    """The replica of that name.

    Raises:
      ReplicaUnknown: none is registered; names those that are.
    """
    found = {row.name: row for row in rows(app)}
    if name in found:
        return found[name]
    names = ", ".join(found) or "none"
    raise ReplicaUnknown(f"no replica {name!r} is registered; registered: {names}")


def pause(app: App, name: str, reason: str) -> ReplicaRow:
    """Let the replica's applier stop behind the command that it is at, until `resume`; its row afterwards.

    Raises:
      ReplicaUnknown: see `known`.
      ReplicaBusy: its worker has not stopped in time; the decision stands.
    """
    known(app, name)
    app.decisions.decide("pause", name, reason=reason)
    return standing(app, name)


def standing(app: App, name: str) -> ReplicaRow:
    """Wait until the replica's worker says that it stands still, or is gone.  Raises `ReplicaBusy`."""
    deadline = time.monotonic() + STOP_S
    while True:
        row = known(app, name)
        if row.stands:
            return row
        if time.monotonic() > deadline:
            raise ReplicaBusy(
                f"{name} was told to stop, and still works on the command behind {row.position}; it stops after that"
            )
        time.sleep(POLL_S)


def resume(app: App, name: str) -> bool:
    """Undo `pause`; false when it was not paused.  Raises `ReplicaUnknown`."""
    return _undone(app, "pause", name)


def _undone(app: App, kind: Kind, name: str) -> bool:
    """Withdraw a decision; false where there is none.  One about a replica that is gone may be left, and is found."""
    was = any((one.kind, one.target) == (kind, name) for one in app.decisions.look())
    if was:
        app.decisions.withdraw(kind, name)
    else:
        known(app, name)
    return was


def quarantine(app: App, name: str, reason: str) -> ReplicaRow:
    """Let the replica neither apply nor answer until it is repaired; its row afterwards.  Raises as `pause` does."""
    known(app, name)
    app.decisions.decide("quarantine", name, reason=reason)
    return standing(app, name)


def release(app: App, name: str) -> bool:
    """End a quarantine without a repair; false when there was none.  Raises `ReplicaUnknown`."""
    return _undone(app, "quarantine", name)


def remove(app: App, name: str, *, force: bool) -> list[str]:
    """Take the replica out: nobody waits for it any more.  Its database is left alone.

    Its registration goes last, so that whoever is interrupted finds it and removes it again.  Returns what could not be
    cleaned away.

    Raises:
      ReplicaUnknown: see `known`.
      ReplicaAlive: a worker of it runs, and would register again when it starts the next time; with *force* that is no
        reason.
    """
    row = known(app, name)
    if row.worker and not force:
        raise ReplicaAlive(
            f"{name} has a worker at {row.worker}: stop it first, or it comes back with its next start; --force "
            "removes the replica all the same"
        )
    left = _forget_group(app, name)
    for decision in app.decisions.look():
        if decision.target == name and decision.kind in {"pause", "quarantine"}:
            app.decisions.withdraw(decision.kind, name)
    app.broker.publish(Outgoing(app.replicas_topic.name, None, name.encode()), app.replicas_topic)
    return left


def _forget_group(app: App, name: str) -> list[str]:
    admin = opened(AdminClient, app.broker.client_settings)
    group = app.settings.group(name)
    future = admin.delete_consumer_groups([group], request_timeout=ASK_S)[group]
    try:
        future.result(ASK_S)
    except KafkaException as exc:
        if exc.args[0].code() == codes.UNKNOWN_GROUP:
            return []
        return [f"consumer group {group}: {exc.args[0].str()}"]
    except TimeoutError:
        return [f"consumer group {group}: Kafka does not answer within {ASK_S:g} s"]
    return []
