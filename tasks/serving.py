"""When a replica answers queries, and when it had better not: it leaves the request topic by itself, and comes back.

What speaks against it is told by functions (`Serving.feed`): it lags, its database is away, it was paused or
quarantined.  With any reason it leaves, as long as another replica serves.  When nobody would be left, one stays or
comes back, so that callers get an answer in time and not silence: rows of an old position, which whoever wants fresher
ones refuses by their level, or, from a graph that is *unfit*, an error.

Two sick replicas may leave, or come back, at once.  Then each sees that nobody serves, or that another one does, and at
the next of its looks, which are at random times, one of them acts first, and the other leaves it at that.
"""

from __future__ import annotations

import logging
import random
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dramatiq.middleware import Middleware

from brokers.delays import now_ms
from brokers.errors import Unreachable
from replica.errors import QueryUnavailable
from tasks.standing import words


if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    import dramatiq

    from brokers.assignment import Blocked
    from tasks.decisions import Decisions
    from tasks.lookout import Lookout

logger = logging.getLogger("tasks.serving")

#: Seconds between two looks, on average.
EVERY_S = 1.0

#: At the start nothing is known, and a replica stays away until it is: the number of looks, and the seconds between
#: them.
FIRST_LOOKS, FIRST_S = 20, 0.1

#: Seconds without a view of the database, or of a held command, after which the replica leaves.
BLIND_S = 5.0

#: The code of an answer from a replica that is unfit.
NOT_SERVING = "Replica.NotServing"


@dataclass(frozen=True, slots=True)
class Reason:
    """What speaks against answering.  *unfit*: its rows would be wrong, and not only old."""

    text: str
    unfit: bool = False


def decide(
    *, serving: bool, reasons: Collection[Reason], others: Callable[[], int | None]
) -> Literal["leave", "return"] | None:
    """What to do now; *others* tells how many other replicas serve, or none where Kafka does not say."""
    if not reasons:
        return None if serving else "return"
    count = others()
    if serving:
        return "leave" if count else None
    return "return" if count == 0 else None


class Serving:
    """One process's part in answering queries.  Any thread."""

    def __init__(
        self, *, leave: Callable[[], None], come_back: Callable[[], None], others: Callable[[], int | None]
    ) -> None:
        self._leave, self._come_back, self._others = leave, come_back, others
        self._feeds: dict[str, Callable[[], Reason | None]] = {}
        self._reasons: dict[str, Reason] = {}
        self._serving = True
        self._looks = 0
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def feed(self, name: str, reason: Callable[[], Reason | None]) -> None:
        """Ask *reason*, once a second, what speaks against answering; none for nothing.  It must not wait long."""
        self._feeds[name] = reason

    def reasons(self) -> dict[str, Reason]:
        """What speaks against answering, as it was seen last."""
        return dict(self._reasons)

    @property
    def serving(self) -> bool:
        """Whether this process takes queries."""
        return self._serving

    def refuse_unfit(self) -> None:
        """Refuse to answer from a graph whose rows would be wrong; for queries that were taken all the same.

        Raises:
          QueryUnavailable: with the reason.
        """
        for name, reason in self._reasons.items():
            if reason.unfit:
                raise QueryUnavailable(NOT_SERVING, f"this replica does not answer: {name}: {reason.text}")

    def start(self) -> None:
        """Look from now on, in a thread; stays away until it has looked once."""
        self.stop()
        self._closing, self._looks = threading.Event(), 0
        if self._feeds:
            self._serving = False
            self._leave()
        self._thread = threading.Thread(target=self._run, args=(self._closing,), name="serving", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more.  Idempotent."""
        thread, self._thread = self._thread, None
        self._closing.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(EVERY_S * 10)

    def _run(self, closing: threading.Event) -> None:
        while not closing.is_set():
            try:
                self.look()
            except Exception:  # the next look may be luckier
                logger.exception("serving_failed")
            closing.wait(EVERY_S * random.uniform(0.5, 1.5) if self._serving or self._looks > FIRST_LOOKS else FIRST_S)

    def look(self) -> None:
        """Look once, and act."""
        self._looks += 1
        found = {name: self._asked(name, ask) for name, ask in self._feeds.items()}
        self._reasons = {name: reason for name, reason in found.items() if reason is not None}
        match decide(serving=self._serving, reasons=self._reasons.values(), others=self._others):
            case "leave":
                self._serving = False
                self._leave()
                logger.warning("serving_left reasons=%s", _words(self._reasons))
            case "return":
                self._serving = True
                self._come_back()
                level = logging.WARNING if self._reasons else logging.INFO
                logger.log(level, "serving reasons=%s", _words(self._reasons) or "none")
            case None:
                return

    def _asked(self, name: str, ask: Callable[[], Reason | None]) -> Reason | None:
        try:
            return ask()
        except Exception as exc:  # it may be why it matters
            logger.exception("serving_feed_failed feed=%s", name)
            return self._reasons.get(name, Reason(f"it cannot be told: {exc!r}"))


def _words(reasons: Mapping[str, Reason]) -> str:
    return "; ".join(f"{name}: {reason.text}" for name, reason in reasons.items())


class Behind:
    """The feed about lag: a reason from *most_s* seconds on, until it is half of that; and about the database."""

    def __init__(self, lookout: Lookout, most_s: float) -> None:
        self._lookout = lookout
        self._most_s = most_s
        self._lagging = True  # until it was seen that it does not
        self._seen_at = time.monotonic()

    def __call__(self) -> Reason | None:
        """What the last look says; asks for the next one."""
        self._lookout.want(log=True)
        sight, now = self._lookout.sight, time.monotonic()
        if sight is not None and sight.problem is None:
            self._seen_at = sight.at
        lag_s = None if sight is None else sight.lag_s(now, now_ms())
        if sight is None or sight.problem is not None or lag_s is None:
            return self._blind(now, None if sight is None else sight.problem)
        self._lagging = lag_s > (self._most_s / 2 if self._lagging else self._most_s)
        return Reason(f"the oldest missing command is {lag_s:.0f} s old") if self._lagging else None

    def _blind(self, now: float, problem: str | None) -> Reason | None:
        """Nothing is seen just now: after a while a reason, at the start at once."""
        if now - self._seen_at < BLIND_S and not self._lagging:
            return None
        return Reason(problem or "not seen yet how far it is")


def held(blocked: Callable[[], Mapping[str, Blocked]], topic: str) -> Callable[[], Reason | None]:
    """The feed about the command that this process holds, if it applies *topic*; elsewhere that shows as lag."""

    def ask() -> Reason | None:
        found = blocked().get(f"{topic}/0")
        if found is None or not found.attempts or time.time() - found.since < BLIND_S:
            return None
        return Reason(f"a command is held: {found.reason}")

    return ask


def untrusted(decisions: Decisions, replica: str) -> Callable[[], Reason | None]:
    """The feed about quarantine: until it is over, rows of *replica* are wrong, and not only old."""

    def ask() -> Reason | None:
        decision = decisions.about("quarantine", replica)
        return None if decision is None else Reason(words(decision), unfit=True)

    return ask


class ServingQueries(Middleware):
    """Starts and stops *serving* with a worker that answers queries."""

    def __init__(self, serving: Callable[[], Serving], queue_name: str) -> None:
        self._serving = serving
        self._queue_name = queue_name

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Dramatiq's."""
        wanted = worker.consumer_whitelist
        if not wanted or self._queue_name in wanted:
            self._serving().start()

    def before_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Dramatiq's."""
        self._serving().stop()


def client_id(replica: str) -> str:
    """What Kafka calls the clients of *replica*, so that the others know who serves."""
    return f"{replica}@{socket.gethostname()}"


def others_of(replica: str, holders: Callable[[], Collection[str]]) -> int | None:
    """How many other replicas serve, by the client ids of those who hold partitions; none where Kafka does not say."""
    try:
        return len({name.rpartition("@")[0] for name in holders()} - {replica})
    except Unreachable as exc:
        logger.info("serving_others_unknown reason=%s", exc)
        return None
