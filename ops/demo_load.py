"""The loading of the demo: commands are sent, replicas are watched, two servers are killed on the way."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ops import demo_data
from ops.demo_proof import Killed
from ops.errors import NotProven


if TYPE_CHECKING:
    from collections.abc import Sequence
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
    """One loading.  `run` in one thread; the sender, and whoever starts servers again, have their own."""

    def __init__(self, app: App, stack: Stack, first: int, kills: Sequence[Kill], bars: Bars) -> None:
        """*first* is the offset of the first command; *bars* has one for each replica, and one for `SENT`."""
        self._app, self._stack, self._first, self._bars = app, stack, first, bars
        self._commands = [*map(demo_data.add_airport, demo_data.airports()), *map(demo_data.add_route, demo_data.routes())]
