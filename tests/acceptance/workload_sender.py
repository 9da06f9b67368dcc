"""A process that sends commands of every kind, and writes down first what it will send, and then what was confirmed.

``python -m tests.acceptance.workload_sender JOURNAL FIRST COUNT SEED``: *FIRST* is the uid of its first command,
*COUNT* how many of them its predecessors have drawn.  The journal is a list of JSON objects, a line each: an intent, or
offsets by uid.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from confluent_kafka import Producer
from dramatiq.errors import BrokerError

from settings import Settings
from tasks.app import App
from tasks.errors import CommandRejected, ReplicasDisagree, WaitTimeout
from tests.workload import draw


if TYPE_CHECKING:
    from pathlib import Path

    from tasks.receipts import Receipt
    from tests.workload import Intent

#: Commands that are sent at once, at most.
MOST = 400

#: Seconds that two replicas get to keep up, before more is sent.
PATIENCE_S = 20.0


class Sender:
    """Sends until it is killed."""

    def __init__(self, journal: Path | str, seed: str) -> None:
        self._journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._random = random.Random(seed)
        settings = Settings()
        self._app = App(settings)
        self._topic = self._app.command_topic.name
        self._plain = Producer(settings.kafka() | {"acks": "all", "enable.idempotence": True})

    def run(self, uid: int, count: int) -> None:
        """Some hundreds at a time, from *uid* on."""
        while True:
            size = self._random.randint(1, MOST)
            intents = [draw(self._random, uid + n, count + n) for n in range(size)]
            uid, count = uid + size, count + size
            self._note(*(asdict(intent) for intent in intents))
            self._send_foreign([intent for intent in intents if intent.kind == "foreign"])
            try:
                self._send([intent for intent in intents if intent.kind != "foreign"])
            except BrokerError:
                time.sleep(0.2)  # not confirmed; the log knows

    def _note(self, *lines: dict[Any, Any]) -> None:
        os.write(self._journal, "".join(json.dumps(line) + "\n" for line in lines).encode())

    def _send_foreign(self, intents: list[Intent]) -> None:
        """Records that are no commands."""
        for intent in intents:
            self._plain.produce(self._topic, json.dumps({"uid": intent.uid}).encode())
        self._plain.flush(10)

    def _send(self, intents: list[Intent]) -> None:
        receipts: dict[int, Receipt] = {}
        with self._app.broker.batching():
            for intent in intents:
                text, parameters, options = intent.arguments()
                receipts[intent.uid] = self._app.run_command.send_with_options(
                    args=(text,), kwargs=parameters, **options
                )
        if not receipts:
            return
        self._note({"confirmed": {uid: receipt.position() for uid, receipt in receipts.items()}})
        with contextlib.suppress(CommandRejected, ReplicasDisagree, WaitTimeout):
            list(receipts.values())[-1].wait(applied=2, timeout=PATIENCE_S)


if __name__ == "__main__":
    Sender(sys.argv[1], sys.argv[4]).run(int(sys.argv[2]), int(sys.argv[3]))
