"""The loading of the demo: commands are sent, replicas are watched, two servers are killed on the way."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ops import demo_data
from ops.demo_proof import Killed
from ops.errors import NotProven


if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from ops.demo_screen import Bars
    from ops.stack import Stack
    from tasks.app import App
    from tasks.receipts import Receipt

#: Commands that are confirmed in one round trip.
TOGETHER = 50

#: The part of the commands behind which the sender waits until all kills are done: so that they fall half-way on every
#: machine, also where a replica is done before anybody has looked.
HELD_BACK = 0.8

#: Seconds between two looks at what the replicas report, and for one look.
LOOK_S = 0.02
LOOK_TIMEOUT_S = 5.0

#: Seconds without any progress after which the demo gives up.  A database that was killed starts in ten.
PATIENCE_S = 120.0

SENT = "sent to Kafka"


@dataclass(frozen=True, slots=True)
class Kill:
    """A server that is killed when its replica has applied this part of all commands."""

    server: str
    replica: str
    at: float


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was done."""

    commands: int
    last: Receipt
    killed: tuple[Killed, ...]
    apply_per_s: float  #: of the replica that was first at the end


class Load:
    """One loading, by `run`.  The sender, and whoever starts servers again, have a thread each."""

    def __init__(self, app: App, stack: Stack, first: int, kills: Sequence[Kill], bars: Bars) -> None:
        """*first* is the offset of the first command; *bars* has one for each replica, and one for `SENT`."""
        self._app, self._stack, self._first, self._bars = app, stack, first, bars
        self._sends = sends(app)
        self.total = len(self._sends)
        self._coming = sorted(kills, key=lambda kill: kill.at)
        self._killed: list[Killed] = []
        self._applied: dict[str, int] = {}
        self._at_end: dict[str, float] = {}
        self._go_on = threading.Event()
        self._stopped = threading.Event()

    def run(self, replicas: int) -> Loaded:
        """Send everything; return when so many *replicas* report the last command.

        Raises:
          NotProven: nothing went on for `PATIENCE_S`.
          And whatever sending, killing and starting raise.
        """
        with ThreadPoolExecutor(2, thread_name_prefix="demo") as threads:
            try:
                sending = threads.submit(self._send)
                mending = self._watch(threads, sending, replicas)
            finally:
                self._stopped.set()
                self._go_on.set()
            if mending is not None:
                mending.result()
        fastest = min(self._at_end.values())
        return Loaded(self.total, sending.result(), tuple(self._killed), self.total / fastest)

    def _send(self) -> Receipt:
        for begin in range(0, self.total, TOGETHER):
            if begin >= HELD_BACK * self.total:
                self._go_on.wait()
            if self._stopped.is_set():
                break
            with self._app.broker.batching():
                receipts = [send() for send in self._sends[begin : begin + TOGETHER]]
            self._bars.show(SENT, begin + len(receipts))
        return receipts[-1]

    def _watch(self, threads: ThreadPoolExecutor, sending: Future[Receipt], replicas: int) -> Future[None] | None:
        begun = changed = time.monotonic()
        mending = None
        while len(self._at_end) < replicas:
            if self._look(begun):
                changed = time.monotonic()
            if self._kill_what_is_due() and not self._coming:
                mending = threads.submit(self._mend)
            for work in (sending, mending):
                if work is not None and work.done():
                    work.result()  # raises what went wrong there
            if not self._coming:
                self._go_on.set()
            if time.monotonic() - changed > PATIENCE_S:
                raise NotProven(f"nothing went on for {PATIENCE_S:g} s; applied so far: {self._applied}")
            time.sleep(LOOK_S)
        return mending

    def _look(self, begun: float) -> bool:
        """Ask how far the replicas are; whether there was anything new."""
        places = self._app.follower.replicas(LOOK_TIMEOUT_S)
        applied = {replica: max(place - self._first + 1, 0) for replica, place in places.items()}
        news = applied != self._applied
        self._applied = applied
        for replica, count in applied.items():
            self._bars.show(replica, count)
            if count >= self.total:
                self._at_end.setdefault(replica, time.monotonic() - begun)
        return news

    def _kill_what_is_due(self) -> bool:
        due = [kill for kill in self._coming if self._applied.get(kill.replica, 0) >= kill.at * self.total]
        for kill in due:
            self._stack.kill(kill.server)
            self._coming.remove(kill)
            at = self._applied[kill.replica]
            self._killed.append(Killed(kill.server, kill.replica, at))
            self._bars.note(kill.replica, f"kill -9 {kill.server} after {at:,} commands")
        return bool(due)

    def _mend(self) -> None:
        """Start what was killed; it goes on from the position in its graph."""
        self._stack.start(*(killed.name for killed in self._killed))
        for killed in self._killed:
            self._bars.note(killed.replica, f"{killed.name} was killed after {killed.at:,}, and is back")


def sends(app: App) -> list[Callable[[], Receipt]]:
    """All commands of the demo in their order; calling one sends it."""
    add_airport, add_route = app.command(demo_data.add_airport), app.command(demo_data.add_route)
    return [
        *(partial(add_airport.send, airport) for airport in demo_data.airports()),
        *(partial(add_route.send, route) for route in demo_data.routes()),
    ]
