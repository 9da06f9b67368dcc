"""What can go wrong around the task queue, as one tree.

OpsError
├── InputUnusable               what was typed, or stands in a file, cannot be sent
├── OutputClosed                whoever read the output has left; there is nobody to tell
├── KafkaAway                   (retryable) no Kafka server answers
├── DatabaseAway                (retryable) a database does not answer, or not to this login
├── NotCancelled                (a TimeoutError) no worker has ended a query in time
├── NotDelayed                  no message of that id waits for its time
├── TruncationRefused           somebody may still need the commands that would be deleted
├── SendingStopped              some commands of a file are in the log, and others are not
├── NotSkipped                  a held command is not skipped, on any replica
├── NotProven                   the demo did not show what it promises
├── ReplicaUnknown              no replica of that name is registered
├── ReplicaAlive                its worker has to be stopped first
├── ReplicaBusy                 (retryable, a TimeoutError) its worker has not stopped, or not caught up, in time
├── NotAReplica                 a database cannot become one, or its graph is not like the others'
└── StackError                  the local stack
    ├── JarsUnavailable         (retryable) a jar could not be downloaded or stored
    ├── JarCorrupt              a jar is not the one in the lock file
    ├── UnknownVersion          no such version of a server
    ├── PackageMissing          an extra is not installed
    ├── PortTaken               (retryable) somebody else listens on a port of the stack
    ├── ServerDied              a server ended while it was starting
    ├── ServerSilent            (retryable, a TimeoutError) a server runs but did not answer in time
    ├── StackBusy               (retryable, a TimeoutError) another command is working on the same stack
    ├── NotInStack              a server that the stack does not have, or not running
    └── StateUnusable           the state file cannot be used by this version, or for this request

Every message is one for the user: what happened, and the way out.
"""

from __future__ import annotations

from typing import ClassVar


class OpsError(Exception):
    """Anything that this package raises on purpose."""

    #: Can the same call succeed later, with nothing changed by hand?
    retryable: ClassVar[bool] = False


class InputUnusable(OpsError):
    """A parameter, a line or a file cannot be understood; nothing was sent."""


class OutputClosed(OpsError):
    """Whoever read the output has left, as `head` does.  It has no text: that is no mistake."""


class KafkaAway(OpsError):
    """No Kafka server answers at the configured address."""

    retryable = True


class DatabaseAway(OpsError):
    """The database that a command is about does not answer, or not to this login."""

    retryable = True


class NotDelayed(OpsError):
    """No delayed message has that id: it was never sent, or has been fired or cancelled."""


class NotCancelled(OpsError, TimeoutError):
    """No worker has ended the query in time; it had ended before, or will not begin any more."""


class TruncationRefused(OpsError):
    """Somebody may still need the commands that would be deleted, or nobody knows; nothing was deleted."""


class SendingStopped(OpsError):
    """Some commands of a file are in the log, and others are not; the text says which."""


class NotSkipped(OpsError):
    """Nothing was decided: a replica has passed the command, none holds it, or not all of them agree."""


class NotProven(OpsError):
    """The demo ended, and a command is missing, was applied twice, or left different graphs."""


class ReplicaUnknown(OpsError):
    """No replica of that name is registered; the text names those that are."""


class ReplicaAlive(OpsError):
    """A worker of the replica runs, and what was asked for needs it to be stopped."""


class ReplicaBusy(OpsError, TimeoutError):
    """A replica's worker has not done in time what was decided, or it was not seen."""

    retryable = True


class NotAReplica(OpsError):
    """A database cannot be made a replica, or was made one and is not like the others; the text says why."""


class StackError(OpsError):
    """The local stack cannot do what was asked."""


class JarsUnavailable(StackError):
    """A jar could not be downloaded, or not be stored.  Network and disks recover."""

    retryable = True


class JarCorrupt(StackError):
    """A freshly downloaded jar has another hash than the lock file says.  It was not kept."""


class UnknownVersion(StackError):
    """The version does not exist, or is one that this project cannot run."""


class PackageMissing(StackError):
    """A package of an extra is missing: servers cannot be started on this machine, or the demo has no data."""


class PortTaken(StackError):
    """A port of the stack is used by a process that is not ours.  It may go away."""

    retryable = True


class ServerDied(StackError):
    """A server ended while it was starting; the message ends with its last log lines."""


class ServerSilent(StackError, TimeoutError):
    """A server did not answer in time; the message ends with its last log lines."""

    retryable = True


class StackBusy(StackError, TimeoutError):
    """Another command holds the lock of the state directory."""

    retryable = True


class NotInStack(StackError):
    """The stack has no such server, or it is not running."""


class StateUnusable(StackError):
    """The state directory cannot serve this request; the message says which flag or directory can."""
