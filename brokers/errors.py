"""What can go wrong between Dramatiq and Kafka.

    dramatiq.errors.BrokerError
    ├── ConnectionError
    │   ├── ConnectionFailed
    │   │   ├── Unreachable        no Kafka server answers; nothing was sent
    │   │   └── StoreAway          the store of large contents does not answer; nothing was sent
    │   └── ConnectionClosed
    │       ├── DeliveryUnknown    no confirmation in time; the message may be in the log
    │       ├── ResultUnstored     the results backend is away; the ack waits for it
    │       ├── ConsumerStopped    the thread that reads from Kafka has ended; Dramatiq opens a new one
    │       └── ParkingFailed      a message cannot be put on its dead-letter topic; it stays unfinished
    └── KafkaError
        ├── DeliveryRefused        Kafka said no: not allowed, no such topic
        │   └── TooLarge           a message does not fit into a record
        ├── DelayRefused           a message of an ordered queue cannot be delayed
        ├── WrongTopic             a topic is not as its queue needs it
        ├── WrongKey               a message's key is neither text nor number
        ├── WrongPriority          a message names a level that its queue does not have
        ├── WrongSetting           Kafka's client does not take its settings, or ours contradict each other
        ├── WrongSchedule          what is declared as periodic is no schedule
        ├── ControlRefused         what was asked of all workers cannot be done
        ├── ResultLost             the results backend can never take a result
        ├── ReadLater              a record cannot be read just now; it keeps its place
        ├── Undecodable            a record is not a message; it is parked
        │   ├── Unsigned           it has no signature, and needs one
        │   ├── BadSignature       its signature is not one of its content
        │   ├── UnknownKey         it is signed with a key that is not here
        │   ├── ClaimGone          its content is not in the store any more
        │   └── ClaimBroken        what is in the store is not its content
        ├── LetterUnknown          no such dead letter waits
        └── LettersBusy            somebody else replays or purges the same dead letters
    dramatiq.middleware.MiddlewareError   the only ones that get out of a middleware
    ├── WrongOption                an option of an actor or a message makes no sense
    ├── Duplicate                  an equal message was sent a moment ago; this one was not
    ├── LimitsUnreachable          nobody can say whether it is a duplicate; nothing was sent
    └── SkipMessage
        ├── Recalled               taken back before it began; it runs later, or elsewhere
        ├── PutOff                 over its limit: a copy comes later
        └── Dropped                taken out on purpose: a failure for whoever waits, and no dead letter
            ├── Revoked
            └── Expired
    dramatiq.middleware.Interrupt
    └── Abort                      the message that runs was aborted
    StartError
    ├── StartUnknown               the place to start from is out of reach just now
    └── StartRefused               there is no safe place to start from; somebody has to decide

``retryable`` says whether the same call can succeed later without anybody's help.
"""

from __future__ import annotations

from typing import ClassVar

from dramatiq import errors as dramatiq_errors
from dramatiq.middleware import MiddlewareError, SkipMessage
from dramatiq.middleware.threading import Interrupt


class _Said(dramatiq_errors.BrokerError):
    """Any of the errors below that Dramatiq knows: a text for people."""

    retryable: ClassVar[bool]

    def __init__(self, text: str) -> None:
        super().__init__(text)  # type: ignore[no-untyped-call]  # Dramatiq annotates its errors' classes, not how to make them


class KafkaError(_Said):
    """Kafka, or what lies in it, refuses."""

    retryable = False


class Unreachable(_Said, dramatiq_errors.ConnectionFailed):
    """No Kafka server answers; nothing was sent."""

    retryable = True


class StoreAway(_Said, dramatiq_errors.ConnectionFailed):
    """The store of large contents does not answer, or is not the one that is needed; nothing was sent."""

    retryable = True


class DeliveryUnknown(_Said, dramatiq_errors.ConnectionClosed):
    """Kafka did not confirm in time.

    The message may, or may not, be in the log: look *message_id* up before sending anew.
    """

    retryable = True

    def __init__(self, text: str, *, message_id: str) -> None:
        super().__init__(text)
        self.message_id = message_id


class ConsumerStopped(_Said, dramatiq_errors.ConnectionClosed):
    """The thread that reads from Kafka has ended; what it had handed out is delivered again."""

    retryable = True


class ParkingFailed(_Said, dramatiq_errors.ConnectionClosed):
    """A message cannot be put on its dead-letter topic; it stays unfinished, and parking it is tried again.

    A connection error in Dramatiq's eyes: those are the ones after which it acks again.
    """

    retryable = True


class ResultUnstored(_Said, dramatiq_errors.ConnectionClosed):
    """The results backend does not take a result just now; storing it is tried again, and the ack waits.

    A connection error in Dramatiq's eyes: see `ParkingFailed`.
    """

    retryable = True


class ResultLost(KafkaError):
    """A result cannot be encoded; its message is parked."""


class DeliveryRefused(KafkaError):
    """Kafka said no, and would again."""


class TooLarge(DeliveryRefused):
    """A message does not fit into a record; the text says by how much, and the ways out."""


class DelayRefused(KafkaError):
    """A delay was asked for, and a message of an ordered queue cannot have one."""


class WrongTopic(KafkaError):
    """A topic is not as its queue needs it; the text says what to change."""


class WrongKey(KafkaError):
    """A message's option ``key`` is neither a text nor a whole number."""


class WrongPriority(KafkaError):
    """A message's option ``broker_priority`` names a level that its queue does not have."""


class WrongSetting(KafkaError):
    """Settings that cannot be used; the text says which."""


class ReadLater(KafkaError):
    """A record cannot be read just now, because a key or a store is missing here.  It keeps its place."""

    retryable = True


class ControlRefused(KafkaError):
    """What was asked of all workers cannot be done; the text says why."""


class WrongSchedule(KafkaError):
    """What an actor is declared with as ``periodic`` is no schedule; the text says why."""


class Undecodable(KafkaError):
    """A record is not a message; the text says why."""

    #: Whether every reader of the record comes to the same verdict, whatever else it has at hand.
    same_everywhere: ClassVar[bool] = True


class Unsigned(Undecodable):
    """A record without a signature, where one is required."""


class BadSignature(Undecodable):
    """A signature that does not belong to what it stands on: changed, moved elsewhere, or made up."""


class UnknownKey(Undecodable):
    """Signed with a key that this process does not have; another one may."""

    same_everywhere = False


class ClaimGone(Undecodable):
    """The store answers, and has not got the content."""

    same_everywhere = False


class ClaimBroken(Undecodable):
    """What the store has is not what was put there."""

    same_everywhere = False


class LetterUnknown(KafkaError):
    """No such dead letter waits: it never was one, or it was dealt with."""


class LettersBusy(KafkaError):
    """Somebody else has begun to replay or purge the same dead letters."""


class WrongOption(MiddlewareError):
    """An option of an actor or a message makes no sense; the text says what to write instead."""

    retryable: ClassVar[bool] = False


class Duplicate(MiddlewareError):
    """An equal message was sent within the window, and this one was not: *key* is what the two have in common."""

    retryable: ClassVar[bool] = False

    def __init__(self, text: str, *, key: str) -> None:
        super().__init__(text)
        self.key = key


class LimitsUnreachable(_Said, dramatiq_errors.ConnectionFailed, MiddlewareError):
    """The rate limiter backend does not answer, so that nobody knows whether it is a duplicate; nothing was sent.

    A connection error in Dramatiq's eyes, so that an ack that waits for such a send is tried again.
    """

    retryable = True


class Recalled(SkipMessage):
    """The message was handed out and taken back before it began: it runs later, or in another process."""


class PutOff(SkipMessage):
    """The message is over its limit: a copy of it comes later."""


class Dropped(SkipMessage):
    """The message was taken out on purpose.  A failure for whoever waits for its result; nothing to park."""


class Revoked(Dropped):
    """Somebody took the message back."""


class Expired(Dropped):
    """The message has not begun in the time that its sender gave it."""


class Abort(Interrupt):
    """Raised in the thread of an actor whose message was aborted."""


class StartError(Exception):
    """Raised by a queue's ``start`` function."""

    retryable: ClassVar[bool] = False


class StartUnknown(StartError):
    """The place to start from is out of reach just now; it is asked for again."""

    retryable = True


class StartRefused(StartError):
    """There is no safe place to start from; the partition stays where it is until somebody mends it."""
