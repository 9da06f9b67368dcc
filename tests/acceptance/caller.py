"""A process with many concurrent callers, for the tests: it says how it gets on, a JSON object on each line.

``caller.py NAME THREADS QUERIES``: it says ``ready``, waits for a line, and then each of its threads asks one query
after the other, every one with an answer that no other has.  It says ``asked`` after every hundredth answer.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

from settings import Settings
from tasks.app import App


if TYPE_CHECKING:
    from collections.abc import Sequence

#: Seconds for one answer; a thousand others are asked for at the same time.
WAIT_S = 120.0


class Callers:
    """What the threads of this process have got."""

    def __init__(self, app: App, name: str) -> None:
        self._app = app
        self._name = name
        self._lock = threading.Lock()
        self.answered = 0
        self.ids: list[str] = []
        self.wrong: list[Any] = []
        self.errors: Counter[str] = Counter()

    def call(self, thread: int, queries: int) -> None:
        """Ask them, one after the other."""
        for number in range(queries):
            wanted = f"{self._name}/{thread}/{number}"
            try:
                result = self._app.run_query.send("RETURN $wanted AS got", wanted=wanted)
                rows = result.get(WAIT_S)
                again = result.get(WAIT_S)
            except Exception as error:  # noqa: BLE001 - counted, and judged by the test
                self.errors[repr(error)] += 1
                continue
            self._note(result.message_id, wanted, [row["got"] for row in rows], again == rows)

    def _note(self, message_id: str, wanted: str, got: Sequence[str], stays: bool) -> None:
        with self._lock:
            self.answered += 1
            self.ids.append(message_id)
            if got != [wanted] or not stays:
                self.wrong.append((wanted, got))
            if self.answered % 100 == 0:
                say(what="asked", answered=self.answered)


def say(**fields: Any) -> None:
    """Tell the test."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def main(name: str, threads: int, queries: int) -> None:
    """As the module says."""
    app = App(Settings())
    callers = Callers(app, name)
    app.run_query.send("RETURN 1 AS got").get(WAIT_S)  # connected, and somebody answers
    say(what="ready")
    sys.stdin.readline()
    running = [threading.Thread(target=callers.call, args=(number, queries)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    waiting = len(app.replies._waiters)
    app.close()
    say(
        what="done",
        answered=callers.answered,
        ids=callers.ids,
        wrong=callers.wrong,
        errors=dict(callers.errors),
        waiting=waiting,
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
