"""How a message's end becomes an ack, a hold or a dead letter: the reader, with its two ways to Kafka as functions."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import dramatiq
import pytest
from dramatiq.errors import ActorNotFound, ConnectionFailed, Retry
from dramatiq.middleware import SkipMessage

from brokers.crashes import Past, Watch
from brokers.errors import (
    Abort,
    ConsumerStopped,
    DelayRefused,
    DeliveryRefused,
    Duplicate,
    Expired,
    KafkaError,
    LimitsUnreachable,
    ParkingFailed,
    Revoked,
    Unreachable,
)
from tests.readers import Bench, failed, taken, value


if TYPE_CHECKING:
    from brokers.records import Record


def test_an_ack_finishes_the_record() -> None:
    """And the next commit says so."""
    bench = Bench().deliver(value())
    reader = bench.reader()
    message = taken(reader)
    assert (message.record.offset, message.args) == (0, (1,))
    assert bench.committed == 0
    reader.ack(message)
    assert bench.committed == 1


def test_a_failed_message_is_parked_with_its_error_and_its_traceback() -> None:
    """A person who reads the dead letter needs no worker's log."""
    delivered = value()
    bench = Bench().deliver(delivered)
    reader = bench.reader()
    reader.nack(failed(taken(reader), ValueError("five")))
    assert bench.kafka.told == [("ValueError", "ValueError: five")]
    assert b"raise error\nValueError: five" in bench.kafka.parked[0].headers["xq.traceback"]
    assert bench.kafka.parked[0].value == delivered
    assert bench.committed == 1


def test_an_actor_that_nobody_knows_parks_its_message() -> None:
    """With the name, since the worker at hand may simply be older than the sender."""
    bench = Bench().deliver(value(actor="ghost"))
    reader = bench.reader()
    reader.nack(failed(taken(reader), ActorNotFound("ghost")))  # type: ignore[no-untyped-call]
    assert bench.kafka.told == [("ActorNotFound", "no actor 'ghost' in this worker")]


def test_what_could_not_be_sent_parks_the_message_with_both_reasons() -> None:
    """A retry with backoff is refused: the dead letter tells the actor's own error first, then why it ends here."""
    bench = Bench().deliver(value(), value())
    reader = bench.reader()
    message = taken(reader)
    try:
        raise ValueError("five")
    except ValueError as exc:
        message.stuff_exception(exc)
    message.send_error = DelayRefused("no delays")
    reader.ack(message)
    quiet = taken(reader)
    quiet.send_error = DelayRefused("no delays")
    reader.ack(quiet)
    assert bench.kafka.told == [
        ("ValueError", "ValueError: five; then what should follow could not be sent: no delays"),
        ("DelayRefused", "it ran, and what should follow could not be sent: no delays"),
    ]
    assert b"ValueError: five" in bench.kafka.parked[0].headers["xq.traceback"]
    assert bench.committed == 2


def test_what_is_owed_is_sent_before_the_ack_and_only_once() -> None:
    """While Kafka is away Dramatiq acks again and again; the actor does not run again."""
    bench = Bench().deliver(value())
    reader = bench.reader()
    message = taken(reader)
    message.owed = [(dramatiq.Message("q", name, (), {}, {}), delay) for name, delay in (("first", None), ("late", 5))]
    bench.kafka.errors = [Unreachable("away")]
    with pytest.raises(Unreachable):
        reader.ack(message)
    assert bench.committed == 0
    reader.ack(message)
    assert bench.kafka.sent == [("first", None), ("late", 5)]
    assert bench.committed == 1


def test_what_is_owed_and_then_refused_parks_the_message() -> None:
    """Refused once is refused for ever; the others are sent."""
    bench = Bench().deliver(value())
    reader = bench.reader()
    message = taken(reader)
    message.owed = [(dramatiq.Message("q", name, (), {}, {}), None) for name in ("big", "small")]
    bench.kafka.errors = [DeliveryRefused("too large")]
    reader.ack(message)
    assert bench.kafka.sent == [("small", None)]
    assert bench.kafka.told == [("DeliveryRefused", "it ran, and what should follow could not be sent: too large")]


def test_what_is_owed_and_known_already_is_not_missed() -> None:
    """A duplicate needs no second send; while nobody knows whether it is one, the ack waits."""
    bench = Bench().deliver(value())
    reader = bench.reader()
    message = taken(reader)
    message.owed = [(dramatiq.Message("q", "single", (), {}, {}), None)]
    bench.kafka.errors = [LimitsUnreachable("no Redis"), Duplicate("known", key="k")]
    with pytest.raises(ConnectionFailed):  # what Dramatiq tries again after
        reader.ack(message)
    assert bench.committed == 0
    reader.ack(message)
    assert (bench.kafka.sent, bench.kafka.parked) == ([], [])
    assert bench.committed == 1


@pytest.mark.parametrize("reason", [Revoked("taken back"), Expired("late"), Abort()])
def test_what_was_dropped_on_purpose_is_done_and_not_parked(reason: BaseException) -> None:
    """Though it has failed in the eyes of middleware."""
    bench = Bench().deliver(value())
    reader = bench.reader()
    message = taken(reader)
    message.fail()
    message.stuff_exception(reason)
    reader.nack(message)
    assert bench.kafka.parked == []
    assert bench.committed == 1


def test_an_ordered_message_is_held_though_its_actor_says_abort() -> None:
    """Nothing is left out of an ordered log."""
    bench = Bench(ordered=True).deliver(value())
    reader = bench.reader()
    message = taken(reader)
    message.stuff_exception(Abort())
    reader.nack(message)
    assert bench.committed == 0
    assert bench.buffer.held(bench.assignment) is not None


def test_a_report_that_could_not_be_published_repeats_the_message() -> None:
    """What middleware publishes itself cannot be sent for it later: only the whole message again can."""
    bench = Bench().deliver(value())
    reader = bench.reader()
    message = taken(reader)
    message.send_error = Unreachable("away")
    reader.ack(message)
    assert bench.committed == 0
    assert taken(reader).record.offset == 0


def test_a_message_that_cannot_be_parked_stays_unfinished() -> None:
    """An error after which Dramatiq acks again; when Kafka is back the message is parked once."""
    bench = Bench().deliver(value())
    reader = bench.reader()
    message = failed(taken(reader), ValueError("five"))
    bench.kafka.errors = [Unreachable("away")]
    with pytest.raises(Unreachable):
        reader.nack(message)
    assert bench.committed == 0
    reader.nack(message)
    reader.nack(message)
    assert bench.committed == 1


def test_a_record_too_large_for_its_dead_letter_is_parked_without_its_value() -> None:
    """Its place is in the headers, and it still lies there; a topic that takes nothing at all keeps it unfinished."""
    bench = Bench().deliver(value(), value())
    reader = bench.reader()
    bench.kafka.errors = [DeliveryRefused("too large")]
    reader.nack(failed(taken(reader), ValueError("five")))
    assert bench.kafka.parked[0].value is None
    assert bench.kafka.parked[0].headers["xq.offset"] == b"0"
    bench.kafka.errors = [DeliveryRefused("no"), DeliveryRefused("no")]
    with pytest.raises(ParkingFailed):
        reader.nack(failed(taken(reader), ValueError("five")))
    assert bench.committed == 1


def test_an_undecodable_record_is_parked_and_the_next_one_comes() -> None:
    """Bad input never stops a queue."""
    bench = Bench().deliver(b"garbage", None, value())
    reader = bench.reader()
    assert next(reader) is None
    assert next(reader) is None
    assert taken(reader).record.offset == 2
    assert [error for error, _ in bench.kafka.told] == ["Undecodable", "Undecodable"]
    assert bench.kafka.parked[0].value == b"garbage"
    assert bench.committed == 2


def test_an_undecodable_record_that_cannot_be_parked_comes_again() -> None:
    """Not as a connection error: on those Dramatiq forgets the messages that it keeps for later."""
    bench = Bench().deliver(b"garbage")
    reader = bench.reader()
    bench.kafka.errors = [Unreachable("away")]
    with pytest.raises(KafkaError, match="away"):
        next(reader)
    assert bench.committed == 0
    assert next(reader) is None
    assert bench.committed == 1


def test_a_bug_in_the_applications_decoder_parks_the_record() -> None:
    """It must not stop the queue either."""

    def broken(record: Record, queue: str) -> dramatiq.Message[Any]:
        raise ZeroDivisionError("mine")

    bench = Bench(decode=broken).deliver(value())
    assert next(bench.reader()) is None
    assert "ZeroDivisionError" in bench.kafka.told[0][1]


def test_a_failed_message_of_an_ordered_queue_is_held() -> None:
    """Whatever middleware says: an exception is no success, with Retries or without."""
    bench = Bench(ordered=True).deliver(value(), value())
    reader = bench.reader()
    message = taken(reader)
    message.stuff_exception(ValueError("five"))
    assert message.failed
    reader.nack(message)
    held = bench.buffer.held(bench.assignment)
    assert held is not None
    assert held.reason == "ValueError: five"
    assert (bench.committed, bench.kafka.parked, next(reader)) == (0, [], None)


@pytest.mark.parametrize("error", [Retry("later", delay=0), type("Held", (Exception,), {"retry_after_s": 0})()])
def test_an_error_may_say_when_to_try_a_held_message_again(error: Exception) -> None:
    """Dramatiq's Retry does in milliseconds, any other error in an attribute."""
    bench = Bench(ordered=True).deliver(value())
    reader = bench.reader()
    reader.nack(failed(taken(reader), error))
    assert taken(reader).record.offset == 0


@pytest.mark.parametrize("error", [SkipMessage("too old"), ActorNotFound("ghost")])  # type: ignore[no-untyped-call]
def test_what_is_passed_over_on_purpose_does_not_hold_an_ordered_queue(error: Exception) -> None:
    """An age limit, or an actor that does not exist, would hold it for ever."""
    bench = Bench(ordered=True).deliver(value(), value())
    reader = bench.reader()
    reader.nack(failed(taken(reader), error))
    assert taken(reader).record.offset == 1
    assert len(bench.kafka.parked) == 1


def test_a_batch_carries_consecutive_messages_of_one_actor() -> None:
    """It is cut before another actor and before what cannot be read; that stands alone, and is parked."""
    bench = Bench(ordered=True, batch=10).deliver(value(), value(), value("b"), b"garbage", value())
    reader = bench.reader()
    sizes = []
    for _ in range(4):
        message = next(reader)
        if message is not None:
            [messages] = message.args
            sizes.append([(one.actor_name, one.record.offset) for one in messages])
            assert message.begin()
            reader.ack(message)
    assert sizes == [[("a", 0), ("a", 1)], [("b", 2)], [("a", 4)]]
    assert [json.loads(one.headers["xq.offset"]) for one in bench.kafka.parked] == [3]
    assert bench.committed == 5


def test_a_late_ack_through_a_new_reader_counts_where_the_message_came_from() -> None:
    """Dramatiq acks on whatever reader it has now, also when the buffer behind it is another one."""
    old = Bench().deliver(value())
    message = taken(old.reader())
    new = Bench().deliver(value())
    other = taken(new.reader())
    new.reader().ack(message)
    assert (old.committed, old.buffer.outstanding) == (1, 0)
    assert (new.committed, new.buffer.outstanding) == (0, 1)
    assert other.record.offset == 0


def test_requeued_messages_come_again_in_their_order() -> None:
    """Those of a revoked partition do not: they run elsewhere."""
    bench = Bench().deliver(value(), value(), value())
    reader = bench.reader()
    messages = [one for _ in range(3) if (one := next(reader))]
    reader.requeue(iter(messages))
    reader.requeue(messages)
    assert [taken(reader).record.offset for _ in range(3)] == [0, 1, 2]
    last = bench.deliver(value()).reader()
    message = next(last)
    assert message is not None
    bench.buffer.revoke([bench.assignment])
    last.requeue([message])
    assert next(last) is None


def test_the_prefetch_is_respected() -> None:
    """Over all readers of a queue in this process, ended ones excepted."""
    bench = Bench().deliver(*[value()] * 5)
    reader = bench.reader(prefetch=2)
    first = taken(reader)
    taken(reader)
    assert next(reader) is None
    reader.ack(first)
    assert next(reader) is not None
    assert next(bench.reader(prefetch=2)) is None


def test_messages_that_dramatiq_keeps_for_later_and_loses_are_handed_out_again() -> None:
    """On a connection error it empties its heap of messages with an eta; closing the reader brings them back."""
    bench = Bench().deliver(value(eta=99), value(eta=99), value())
    reader = bench.reader()
    for _ in range(3):
        assert next(reader) is not None
    reader.close()
    reader.close()
    again = bench.reader()
    assert [one.record.offset for _ in range(3) if (one := next(again))] == [0, 1]


def test_a_reader_says_when_its_consumer_has_ended() -> None:
    """Then Dramatiq opens another; the one who waits is woken at once."""
    bench = Bench()
    reader = bench.reader()
    threading.Timer(0.01, bench.buffer.stop, ["gone"]).start()
    reader._timeout_s = 10
    with pytest.raises(ConsumerStopped, match="gone"):
        next(reader)


def test_what_has_ended_too_many_processes_is_parked_without_being_run() -> None:
    """With the number of its attempts; what it carries is not even decoded."""
    bench = Bench().deliver(value())
    bench.assignment.watch = Watch(Past(crashes={0: 3}), 3)
    assert next(bench.reader()) is None
    [(error, reason)] = bench.kafka.told
    assert error == "Crashed"
    assert "3 processes ended without a word" in reason
    assert bench.kafka.parked[0].headers["xq.attempts"] == b"3"
    assert bench.committed == 1


def test_a_suspect_that_fails_in_the_ordinary_way_counts_what_is_certain() -> None:
    """The first crash may have been anybody's."""
    bench = Bench().deliver(value())
    bench.assignment.watch = Watch(Past(crashes={0: 2}), 3)
    reader = bench.reader()
    message = taken(reader)
    message.stuff_exception(ValueError("five"))
    reader.nack(message)
    headers = bench.kafka.parked[0].headers
    assert (headers["xq.attempts"], headers["xq.crashes"]) == (b"2", b"1")
