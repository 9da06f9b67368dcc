"""Dramatiq's own command line on our broker: processes, restarts, signals; and gevent, which cannot be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import dramatiq
import pytest

from brokers import KafkaBroker
from tests.support import unique, wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]

MODULE = """
import os, time
import dramatiq
from brokers import KafkaBroker

broker = KafkaBroker(os.environ["SERVERS"], prefix=os.environ["PREFIX"], group_id=os.environ["PREFIX"])
dramatiq.set_broker(broker)

@dramatiq.actor
def note(number):
    time.sleep(0.01)
    os.write(int(os.environ["OUT"]), f"{number} {os.getpid()}\\n".encode())
"""


class Command:
    """``dramatiq`` in a session of its own, with a module of actors, and what they wrote."""

    def __init__(self, servers: str, folder: Path) -> None:
        self.folder = folder
        self.prefix = unique("cli-")
        self.module = folder / "noting.py"
        self.module.write_text(MODULE)
        self._log = folder / "log"
        self._servers = servers
        self._ran: list[subprocess.Popen[bytes]] = []
        self.broker = KafkaBroker(servers, prefix=self.prefix, group_id=self.prefix)
        self.broker.declare_queue("default")

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start it."""
        with self._log.open("ab") as log, (self.folder / "err").open("ab") as err:
            environment = {
                **os.environ,
                "SERVERS": self._servers,
                "PREFIX": self.prefix,
                "PYTHONPATH": f"{ROOT}:{self.folder}",
                "OUT": str(log.fileno()),
            }
            program = Path(sys.executable).with_name("dramatiq")
            one = subprocess.Popen(
                [program, "--threads", "2", *arguments, "noting"],
                cwd=self.folder,
                env=environment,
                stdout=err,
                stderr=err,
                pass_fds=[log.fileno()],
                start_new_session=True,
            )
        self._ran.append(one)
        return one

    def send(self, first: int, count: int) -> None:
        """So many messages."""
        with self.broker.batching():
            for number in range(first, first + count):
                self.broker.enqueue(dramatiq.Message("default", "note", (number,), {}, {}))

    def lines(self) -> list[tuple[int, int]]:
        """Numbers that have run, and in which process."""
        return [
            (int(number), int(pid)) for number, pid in (line.split() for line in self._log.read_text().splitlines())
        ]

    def ran(self) -> Counter[int]:
        """How often each number has run."""
        return Counter(number for number, _ in self.lines())

    def close(self) -> None:
        """End what is left of it."""
        for one in self._ran:
            if one.poll() is None:
                os.killpg(one.pid, signal.SIGKILL)
                one.wait()
        self.broker.close()


@pytest.fixture
def command(kafka: str, tmp_path: Path) -> Iterator[Command]:
    """The command line."""
    one = Command(kafka, tmp_path)
    yield one
    one.close()


@pytest.mark.slow
def test_processes_share_the_work_and_end_in_order(command: Command) -> None:
    """Two of them; at a SIGTERM in the middle they finish what runs and give back the rest, which others run, once."""
    sent = 0

    def both_work() -> bool:
        """There is always something to do, so that the signal comes in the middle of it."""
        nonlocal sent
        if sent - len(command.lines()) < 200:
            command.send(sent, 200)
            sent += 200
        return len({pid for _, pid in command.lines()}) == 2

    first = command.start("--processes", "2")
    wait_until(both_work, 60, "both processes to work")
    command.send(sent, 800)
    sent += 800
    first.terminate()
    assert first.wait(60) == 0
    assert command.ran().total() < sent
    command.start("--processes", "2")
    command.broker.join("default", timeout=60_000)
    assert command.ran() == Counter(range(sent))


@pytest.mark.slow
def test_workers_are_restarted_without_a_loss(command: Command) -> None:
    """By SIGHUP, which is what `--watch` sends to itself: new processes go on where the old ones were."""
    command.send(0, 500)
    one = command.start("--processes", "1")
    wait_until(command.lines, 60, "the first process to work")
    before = {pid for _, pid in command.lines()}
    one.send_signal(signal.SIGHUP)
    command.send(500, 500)
    wait_until(lambda: {pid for _, pid in command.lines()} - before, 60, "another process to work")
    command.broker.join("default", timeout=60_000)
    assert command.ran() == Counter(range(1000))
    one.terminate()
    assert one.wait(60) == 0


GEVENT = """
import sys
{prepare}
from brokers import KafkaBroker
try:
    KafkaBroker()
except Exception as exc:
    print(type(exc).__name__, exc)
"""

#: What the broker looks at, for where gevent is not installed.
STAND_IN = """
import types
monkey = types.ModuleType("gevent.monkey")
monkey.saved = {}
monkey.is_module_patched = lambda name: name == "threading"
sys.modules["gevent.monkey"] = monkey
"""


@pytest.mark.parametrize("prepare", ["import gevent.monkey; gevent.monkey.patch_all()", STAND_IN])
def test_gevent_is_refused(prepare: str) -> None:
    """A call of Kafka's client would stop every greenlet of the process; the error says so, and what to do."""
    if prepare != STAND_IN:
        pytest.importorskip("gevent", reason="gevent is not installed")
    code = GEVENT.format(prepare=prepare)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith("WrongSetting gevent has replaced Python's threads")
    assert "run `dramatiq` instead of `dramatiq-gevent`" in done.stdout
