"""Takes or restores a snapshot and stands still at a stage, so that a test can kill it there.

``python -m tests.integration.snapshot_worker create|restore STAGE URI FILE``; user and password come on standard input.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from replica import snapshot, snapshot_restore
from replica.driver import connect
from replica.marker import Key
from replica.snapshot_format import Source


def main() -> None:
    """See above."""
    act, stage, uri, file = sys.argv[1:]
    user, password = sys.stdin.readline().split()

    def tell(text: str, done: int, total: int) -> None:
        if text == stage:
            print(f"in {stage}", flush=True)  # noqa: T201 - what the test waits for
            time.sleep(600)

    with connect(uri, user, password) as driver:
        if act == "create":
            with Path(file).open("wb") as target:
                snapshot.create(driver, "neo4j", Key("log", 0), target, tell)
        else:
            with Path(file).open("rb") as source:
                snapshot_restore.restore(driver, "neo4j", Source(source, file), tell)


if __name__ == "__main__":
    main()
