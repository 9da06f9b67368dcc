"""Making Kafka clients: the settings that all of them share, and what they have to say about their servers."""

from __future__ import annotations

import ctypes
import logging
import os
import socket
import sys
import time
import weakref
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import confluent_kafka
from confluent_kafka.admin import AdminClient as _AdminClient

from brokers import codes
from brokers.errors import WrongSetting
from brokers.hints import hint


if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from confluent_kafka import KafkaError

C = TypeVar("C")
P = ParamSpec("P")

#: Clients say the same thing several times a second while a server is away; once in this time is enough, in seconds.
LOG_EVERY_S = 10.0

#: A complaint that is older than this, in seconds, does not explain what fails now.
STALE_S = 60.0

#: librdkafka's facilities that only repeat what the error callback hears.
REPEATED = frozenset({"FAIL", "ERROR"})

logger = logging.getLogger("brokers.kafka")


class Seldom:
    """Says whether something that happens often is due to be told again."""

    def __init__(self, every_s: float = LOG_EVERY_S) -> None:
        self._every_s = every_s
        self._told: dict[str, float] = {}

    def due(self, what: str = "") -> bool:
        """True the first time for *what*, and then once in a while."""
        now = time.monotonic()
        if now - self._told.get(what, -self._every_s) < self._every_s:
            return False
        self._told[what] = now
        return True


class Health:
    """The last thing that clients said about their servers.

    A wrong password, a server that is down and an unknown host all look like a time-out to the call that fails; only
    the error callback knows which it was.
    """

    def __init__(self) -> None:
        self._last: tuple[float, str] | None = None
        self._seldom = Seldom()

    def on_error(self, error: KafkaError) -> None:
        """The clients' ``error_cb``: remembers, and logs now and then."""
        # "All servers are down" follows upon every single reason, and says less.
        if error.code() == codes.ALL_DOWN and self.why():
            return
        self._last = (time.monotonic(), error.str())
        if self._seldom.due():
            logger.warning("kafka_client_error code=%s text=%s%s", error.name(), error.str(), hint(error.str()))

    def why(self) -> str:
        """The last complaint and what to do, for the end of an error message; empty when there was none lately."""
        last = self._last
        recent = last is not None and time.monotonic() - last[0] < STALE_S
        return f" ({last[1]}{hint(last[1])})" if last is not None and recent else ""


class _Quiet(logging.Filter):
    """Lets each of librdkafka's facilities through once in a while, and those that repeat the error callback never."""

    def __init__(self) -> None:
        super().__init__()
        self._seldom = Seldom()

    def filter(self, record: logging.LogRecord) -> bool:
        facility = record.getMessage().partition(" ")[0]
        return facility not in REPEATED and self._seldom.due(facility)


def client_logger() -> logging.Logger:
    """Where librdkafka's own lines go.

    By itself it would write to file descriptor 2, which belongs to somebody else in a worker process.
    """
    library = logging.getLogger("brokers.librdkafka")
    if not library.filters:
        library.addFilter(_Quiet())
    return library


def base_config(settings: Mapping[str, Any], health: Health) -> dict[str, Any]:
    """What every client of this package starts from."""
    return {
        "client.id": f"neo4j-kafka@{socket.gethostname()}",
        "error_cb": health.on_error,
        "log.connection.close": False,  # idle connections are closed by the server as a matter of course
        "socket.keepalive.enable": True,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 2000,  # a server that is back is used within two seconds
        **settings,
    }


class Producer(confluent_kafka.Producer):
    """confluent-kafka's, that weak references can point at."""


class Consumer(confluent_kafka.Consumer):
    """As `Producer`."""


class AdminClient(_AdminClient):
    """As `Producer`."""


class Callbacks:
    """Keeps what the callbacks of one client raise.

    An exception that goes through the client's own code becomes another one on the way, or ends the process.
    """

    def __init__(self) -> None:
        self._error: BaseException | None = None

    def guarded(self, callback: Callable[P, None]) -> Callable[P, None]:
        """*callback*, which raises nothing; `check` does."""

        def call(*args: P.args, **kwargs: P.kwargs) -> None:
            try:
                callback(*args, **kwargs)
            except BaseException as exc:  # noqa: BLE001 - raised by `check`
                self._error = self._error or exc

        return call

    def check(self) -> None:
        """Raise the first thing that a callback has raised since the last call."""
        error, self._error = self._error, None
        if error is not None:
            raise error


#: The clients of this process, so that a forked child can keep its hands off them.
_clients: weakref.WeakSet[Any] = weakref.WeakSet()


def refuse_gevent() -> None:
    """Say why nothing would work, instead of standing still.

    Raises:
      WrongSetting: gevent has replaced Python's threads.
    """
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("threading"):
        raise WrongSetting(
            "gevent has replaced Python's threads, and Kafka's client waits inside C code, where gevent cannot switch:"
            " the whole process would stand still; run `dramatiq` instead of `dramatiq-gevent`, and call no"
            " `monkey.patch_all()`"
        )


def opened(kind: Callable[..., C], config: Mapping[str, Any]) -> C:
    """A client of that *kind*.  It connects at its first use.

    Raises:
      WrongSetting: librdkafka does not take the configuration; see `refuse_gevent`.
    """
    refuse_gevent()
    try:
        client = kind(dict(config), logger=client_logger())
    except confluent_kafka.KafkaException as exc:
        raise WrongSetting(f"Kafka's client refuses its settings: {exc.args[0].str()}") from exc
    _clients.add(client)
    return client


def _keep_inherited() -> None:
    """In a forked child: never destroy the parent's clients.

    Their threads are not here.  Destroying one waits for them, a second each, and ends in a segmentation fault when the
    interpreter shuts down.
    """
    for client in list(_clients):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(client))
    _clients.clear()


# Any thread's lock may be held at a fork, so nothing here takes one.
os.register_at_fork(after_in_child=_keep_inherited)
