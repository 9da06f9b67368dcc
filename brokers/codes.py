"""The error codes that this package tells apart, named once.

librdkafka's own codes, for what never reached a server, are public in confluent-kafka although they begin with an
underscore; this module is the one place that says so to the linter.
"""

from __future__ import annotations

from confluent_kafka import KafkaError


#: No answer about a record: it may, or may not, be in the log.
UNCONFIRMED = frozenset(
    {
        KafkaError._MSG_TIMED_OUT,
        KafkaError._TIMED_OUT,
        KafkaError._TRANSPORT,
        KafkaError._PURGE_QUEUE,
        KafkaError._PURGE_INFLIGHT,
        KafkaError.REQUEST_TIMED_OUT,
    }
)

#: Of those, what the client says of records whose transaction failed because of something else.
PURGED = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT})

#: No server answers, or too few of them.
AWAY = frozenset(
    {
        KafkaError._TIMED_OUT,
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.INVALID_REPLICATION_FACTOR,  # too few servers are up for a new topic
    }
)

#: Every server that is known; why, another error has said.
ALL_DOWN = KafkaError._ALL_BROKERS_DOWN

#: The offset to read from is not in the log; the client fetches nothing more from that partition by itself.
OUTSIDE_LOG = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE})

#: Nothing more comes from this consumer: it did not poll for so long that the group has thrown it out, or is told never
#: to try again.
ENDING = frozenset({KafkaError._MAX_POLL_EXCEEDED, KafkaError._FATAL})

#: The consumer has read all there is on a partition; the event says how far.
PARTITION_EOF = KafkaError._PARTITION_EOF

#: A transaction about the offsets is open.
UNSTABLE = KafkaError.UNSTABLE_OFFSET_COMMIT

#: The group has moved on: who says this is not its member any more, or not yet again.
FENCED = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.STALE_MEMBER_EPOCH,
        KafkaError.FENCED_MEMBER_EPOCH,
    }
)

#: Somebody else has made the topic in the meantime.
TOPIC_ALREADY_EXISTS = KafkaError.TOPIC_ALREADY_EXISTS

#: Another producer has taken the same transactional id.
FENCED = frozenset({KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH})

#: There is no such topic.
UNKNOWN_TOPIC = KafkaError.UNKNOWN_TOPIC_OR_PART

#: There is no such consumer group.
UNKNOWN_GROUP = KafkaError.GROUP_ID_NOT_FOUND

#: What a topic does not take, now or ever: sending it again changes nothing.
REFUSED = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
    }
)
