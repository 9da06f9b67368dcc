"""What can go wrong between Dramatiq and Kafka.

    dramatiq.errors.BrokerError
    ├── ConnectionError
    │   ├── ConnectionFailed
    │   │   └── Unreachable        no Kafka server answers; nothing was sent
    │   └── ConnectionClosed
    │       ├── DeliveryUnknown    no confirmation in time; the message may be in the log
    │       ├── ResultUnstored     the results backend is away; the ack waits for it
    │       ├── ConsumerStopped    the thread that reads from Kafka has ended; Dramatiq opens a new one
    │       └── ParkingFailed      a message cannot be put on its dead-letter topic; it stays unfinished
    └── KafkaError
        ├── DeliveryRefused        Kafka said no: too large, not allowed, no such topic
        ├── DelayRefused           a message of an ordered queue cannot be delayed
        ├── WrongTopic             a topic is not as its queue needs it
        ├── WrongKey               a message's key is neither text nor number
        ├── WrongSetting           Kafka's client does not take its settings
        ├── ResultLost             the results backend can never take a result
        └── Undecodable            a record is not a message; it is parked
    StartError
    ├── StartUnknown               the place to start from is out of reach just now
    └── StartRefused               there is no safe place to start from; somebody has to decide

``retryable`` says whether the same call can succeed later without anybody's help.
"""

from __future__ import annotations

from typing import ClassVar

from dramatiq import errors as dramatiq_errors


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


class DelayRefused(KafkaError):
    """A delay was asked for, and a message of an ordered queue cannot have one."""


class WrongTopic(KafkaError):
    """A topic is not as its queue needs it; the text says what to change."""


class WrongKey(KafkaError):
    """A message's option ``key`` is neither a text nor a whole number."""


class WrongSetting(KafkaError):
    """Kafka's client does not take its settings; the text says which."""


class Undecodable(KafkaError):
    """A record is not a message; the text says why."""


class StartError(Exception):
    """Raised by a queue's ``start`` function."""

    retryable: ClassVar[bool] = False


class StartUnknown(StartError):
    """The place to start from is out of reach just now; it is asked for again."""

    retryable = True


class StartRefused(StartError):
    """There is no safe place to start from; the partition stays where it is until somebody mends it."""
