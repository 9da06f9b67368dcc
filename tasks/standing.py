"""An applier that stands still: because a person has paused it, or because its graph is not to be trusted."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from dramatiq.errors import BrokerError

from brokers.errors import StartUnknown


if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.decisions import Decision, Decisions

logger = logging.getLogger("tasks.standing")


class StandsStill(Exception):
    """Nothing was applied, and nothing will be before the decision is withdrawn: the broker keeps the commands."""

    #: Not for the commands to be tried again at once, but for the start to be asked for, which then says why not.
    retry_after_s = 0.0


class Standing:
    """What one replica's applier asks before it does anything; *goes_on* is called when it may apply again."""

    def __init__(self, decisions: Decisions, replica: str, goes_on: Callable[[], None]) -> None:
        self._decisions = decisions
        self._replica = replica
        self._goes_on = goes_on
        self._known: Decision | None = None
        decisions.watch(self._announce)

    def before_start(self) -> None:
        """Every decision that was made before this call is obeyed by what follows it.

        A graph that is being made anew looks like a new one for a moment, and must not be taken for one.

        Raises:
          StartUnknown: the applier has to stand still, or nobody knows whether it has to.
        """
        try:
            self._stop()  # what is known already needs no question
            self._decisions.follow(anew=True)
            self._stop()
        except StandsStill as exc:
            raise StartUnknown(str(exc)) from exc
        except BrokerError as exc:
            raise StartUnknown(f"replica {self._replica}: {exc}") from exc

    def before_apply(self) -> None:
        """From memory, unless the reading of decisions has ended.

        Raises:
          StandsStill: with the reason.
        """
        self._stop()

    def _announce(self) -> None:
        """A line in the worker's log at once, also where no command comes that would have to wait."""
        decision = self._decisions.stops(self._replica)
        if decision is not None and decision != self._known:
            logger.warning("replica_stands_still reason=%s", words(decision))
        elif decision is None and self._known is not None:
            logger.warning("replica_goes_on replica=%s", self._replica)
            self._goes_on()  # its graph may be another one, and no command may come that would find that out
        self._known = decision

    def _stop(self) -> None:
        decision = self._decisions.stops(self._replica)
        if decision is not None:
            raise StandsStill(words(decision))


def words(decision: Decision) -> str:
    """A pause or a quarantine, for people, with the way out."""
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(decision.at_ms / 1000))
    state, way_out = {"pause": ("paused", "resume"), "quarantine": ("quarantined", "repair")}[decision.kind]
    by = f" by {decision.by}" if decision.by else ""
    return (
        f"replica {decision.target} is {state} since {since}{by}: {decision.reason or 'no reason was given'};"
        f" `replica {way_out} {decision.target}` ends that"
    )
