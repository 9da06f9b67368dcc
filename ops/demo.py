"""The guided tour: real data, real servers, real kills, and then the proof."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ops import console, demo_data
from ops.connection import connected
from ops.demo_load import SENT, Kill, Load, Loaded
from ops.demo_proof import Proof, examine
from ops.demo_questions import QUESTIONS
from ops.demo_screen import Screen
from ops.forms import as_table
from ops.showing import footer
from ops.stack import Stack
from settings import Settings


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ops.demo_questions import Question
    from ops.progress import Progress
    from tasks.app import App

#: Which part of all commands a replica has applied when its worker, or its database, is killed.
WORKER_AT = 0.30
DATABASE_AT = 0.55

#: Seconds for a worker that was just started to apply the first command.
FIRST_S = 60.0

#: Seconds for the answer to a question.
ANSWER_S = 30.0


class Demo:
    """One run of it.  `run` returns the proof; the servers are stopped at the end, also after Ctrl-C."""

    def __init__(self, state_dir: Path, *, replicas: int, kill: bool, keep: bool, quiet: bool) -> None:
        """*state_dir* is emptied; *quiet* keeps stdout free."""
        self._stack = Stack(state_dir, short_lived=True)
        self._replicas = replicas
        self._kill = kill
        self._keep = keep
        self._screen = Screen(to_stderr=quiet)

    def run(self) -> Proof:
        """Do everything.

        Raises:
          OpsError: servers could not be started, or loading stood still.
          And what sending and asking raise.
        """
        begun = time.monotonic()
        demo_data.airports()  # says at once when they are missing
        try:
            proof = self._tour(begun)
            self._tell(proof)
        finally:
            self._end()
        return proof

    def _tour(self, begun: float) -> Proof:
        self._start_servers()
        settings: Any = self._stack.environment()
        with connected(Settings(**settings)) as app:
            loaded = self._load(app)
            self._ask(app)
        return self._prove(loaded, begun)

    def _start_servers(self) -> None:
        self._screen.step(
            f"Start Kafka and {self._replicas} Neo4j Community servers, each with a worker of its own",
            "They are ordinary processes on this machine. The databases do not know of each other:"
            " all that they share is one log in Kafka.",
        )
        with self._progress() as show:
            self._stack.up(replicas=self._replicas, fresh=True, progress=show)
            self._stack.start_workers(progress=show)

    @contextmanager
    def _progress(self) -> Iterator[Progress]:
        if not self._screen.is_terminal:
            yield self._screen.server
            return
        with console.progress() as show:
            yield show

    def _load(self, app: App) -> Loaded:
        first = app.run_command.send(demo_data.CONSTRAINT)
        first.wait(applied=self._replicas, timeout=FIRST_S)
        kills = self._kills()
        names = [SENT, *(f"replica-{number}" for number in range(1, self._replicas + 1))]
        total = len(demo_data.airports()) + len(demo_data.routes())
        self._screen.step(
            f"Send {total:,} commands: the airports of the United States, and the flights between them",
            "Each is one small write. Kafka puts them into one order, and every replica applies all of them in that"
            " order." + _threat(kills),
        )
        with self._screen.bars(names, total) as bars:
            loaded = Load(app, self._stack, first.position() + 1, kills, bars).run(self._replicas)
        loaded.last.wait(applied="all", timeout=FIRST_S)
        self._screen.say(
            f"All {self._replicas} replicas are at the end of the log."
            f" The fastest applied {loaded.apply_per_s:,.0f} commands a second, with everything on one machine."
        )
        return loaded

    def _kills(self) -> list[Kill]:
        if not self._kill:
            return []
        worker, database = self._replicas - 1, self._replicas
        return [
            Kill(f"worker-{worker}", f"replica-{worker}", WORKER_AT),
            Kill(f"neo4j-{database}", f"replica-{database}", DATABASE_AT),
        ]

    def _ask(self, app: App) -> None:
        self._screen.step(
            "Ask questions",
            "A query goes to whichever replica is free, and its answer says who that was and how new it is.",
        )
        for question in QUESTIONS:
            self._answer(app, question)

    def _answer(self, app: App, question: Question) -> None:
        begun = time.monotonic()
        rows = app.run_query.send(question.text, **question.parameters).get(timeout=ANSWER_S)
        took_ms = 1000 * (time.monotonic() - begun)
        self._screen.say(f"\n{question.words}", style="italic")
        self._screen.drawn("".join(as_table(rows.columns, [rows], self._screen.room)))
        self._screen.say(footer(rows, took_ms), style="dim")

    def _prove(self, loaded: Loaded, begun: float) -> Proof:
        self._screen.step(
            "Prove it",
            "Every command also raised a counter in the graph, so a lost one would be missing there, and one that was"
            " applied twice would count double. A checksum over each whole graph shows that they are equal.",
        )
        evidence = tuple(
            examine(f"replica-{number}", self._stack.environment(number)) for number in range(1, self._replicas + 1)
        )
        position = loaded.last.position()
        wall_s = time.monotonic() - begun
        return Proof(loaded.commands, position, loaded.killed, evidence, loaded.apply_per_s, wall_s)

    def _tell(self, proof: Proof) -> None:
        self._screen.table(proof.as_table())
        lost, twice = (str(number) if number else "none" for number in (proof.lost, proof.applied_twice))
        self._screen.say(
            f"{proof.commands:,} commands, {len(proof.killed)} servers killed. Lost: {lost}. Applied twice: {twice}."
            f" The graphs are {'the same' if proof.same else 'NOT the same'}. ({proof.wall_s:.0f} s)",
            style="bold green" if proof.holds else "bold red",
        )

    def _end(self) -> None:
        if self._keep:
            self._screen.say(
                f"\nEverything still runs. `neo4j-kafka env --state-dir {self._stack.folder}` tells where,"
                f" `neo4j-kafka down --state-dir {self._stack.folder}` ends it."
            )
            return
        self._screen.say("\nStopping the servers.", style="dim")
        self._stack.down()


def _threat(kills: list[Kill]) -> str:
    if not kills:
        return ""
    doomed = " and ".join(kill.server for kill in kills)
    return f" Half-way, {doomed} will be killed with kill -9 and started again."
