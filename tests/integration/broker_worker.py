"""A worker process for the broker's tests: it writes down what begins and what ends, and dies when it is told to."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import dramatiq

from brokers import KafkaBroker
from tests.support import wait_until


ROOT = Path(__file__).resolve().parents[2]

#: Longest body of an actor here, in seconds.
LONGEST_S = 0.01

#: The number of a message whose body never ends.
STUCK = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Line:
    """What a worker wrote: ``begin`` or ``end``, of which message, in which process."""

    what: str
    number: int
    pid: int


def make_broker(servers: str, prefix: str, protocol: str = "classic", *, body_s: float | None = None) -> KafkaBroker:
    """The broker that caller and workers share, with its two actors, ``work`` and ``step``.

    Their bodies take *body_s* seconds, or, without it, a random time; a negative number kills its process.
    """
    broker = KafkaBroker(servers, prefix=prefix, group_id=f"{prefix}workers", group_protocol=protocol)
    broker.add_middleware(dramatiq.middleware.CurrentMessage())
    out = os.open(os.environ["WORKER_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND) if "WORKER_LOG" in os.environ else 2

    def note(what: str, number: int) -> None:
        os.write(out, f"{what} {number} {os.getpid()}\n".encode())  # one write: lines of several processes stay whole

    def body(number: int) -> None:
        note("begin", number)
        if number < 0:
            os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory runs out
        if number == STUCK:
            threading.Event().wait()
        time.sleep(random.uniform(0, LONGEST_S) if body_s is None else body_s)
        note("end", number)

    @dramatiq.actor(broker=broker, queue_name="work")
    def work(number: int) -> None:
        body(number)

    @dramatiq.actor(broker=broker, queue_name="steps", ordered=True)
    def step(number: int) -> None:
        body(number)

    return broker


class Crew:
    """Worker processes that are started and killed, and the log that they share."""

    module = "tests.integration.broker_worker"

    def __init__(
        self,
        servers: str,
        prefix: str,
        log: Path,
        protocol: str = "classic",
        *,
        threads: int | None = None,
        body_s: float | None = None,
    ) -> None:
        further = [str(value) for value in (threads, body_s) if value is not None]
        self._arguments = [servers, prefix, protocol, *further]
        self._log = log
        self.members: list[subprocess.Popen[bytes]] = []

    def start(self) -> subprocess.Popen[bytes]:
        """Another worker."""
        command = [sys.executable, "-m", self.module, *self._arguments]
        environment = os.environ | {"WORKER_LOG": str(self._log)}
        with self._log.with_suffix(".err").open("ab") as err:
            member = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=err, stderr=err)
        self.members.append(member)
        return member

    def kill(self, member: subprocess.Popen[bytes]) -> None:
        """With SIGKILL: it can finish nothing, commit nothing, and say nothing."""
        member.kill()
        member.wait()
        self.members.remove(member)

    def stop(self, member: subprocess.Popen[bytes]) -> None:
        """Ask it to end; it has to."""
        member.terminate()
        assert member.wait(60) == 0
        self.members.remove(member)

    def lines(self) -> list[Line]:
        """All that was written until now, in its order."""
        text = self._log.read_text() if self._log.exists() else ""
        whole = text[: text.rfind("\n") + 1]  # of a line that is just being written a reader may see the first part
        words = (line.split() for line in whole.splitlines())
        return [Line(what, int(number), int(pid)) for what, number, pid in words]

    def ended(self) -> Counter[int]:
        """How often each message ended."""
        return Counter(line.number for line in self.lines() if line.what == "end")

    def wait_for(self, count: int, timeout_s: float = 60) -> None:
        """Until so many different messages have ended."""
        wait_until(lambda: len(self.ended()) >= count, timeout_s, f"{count} messages to end")

    def close(self) -> None:
        """Kill whoever is left."""
        for member in list(self.members):
            self.kill(member)


def serve(broker: KafkaBroker, threads: int = 4) -> None:
    """Work until SIGTERM, which `main` has blocked before any thread was there."""
    worker = dramatiq.Worker(broker, worker_threads=threads, worker_timeout=100)
    worker.start()
    signal.sigwait({signal.SIGTERM})
    worker.stop()
    broker.close()


def main() -> None:
    """Work until SIGTERM."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # in all threads to come; only `sigwait` takes it
    servers, prefix, protocol, *further = sys.argv[1:]
    threads, body_s = (*map(float, further), None, None)[:2]
    broker = make_broker(servers, prefix, protocol, body_s=body_s)
    serve(broker, int(threads or 4))


if __name__ == "__main__":
    main()
