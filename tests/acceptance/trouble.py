"""Who sends the commands of a workload, and who kills whom meanwhile."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from neo4j.exceptions import DriverError, Neo4jError

from settings import environment_names
from tests.acceptance.busy import Busy
from tests.replicas import ROOT, value
from tests.workload import Intent, draw


if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from pathlib import Path

    from ops.stack import Stack
    from tests.replicas import Replicas

SEED = int(os.environ.get("TEST_SEED", "20261128"))

POSITION = "MATCH (m:_KafkaPosition) RETURN m.offset"

#: Uids of one sender; the senders' are far apart.
APART = 10**9
SENDERS = (1, 2)
COMMAND_LINE = 9

#: Seconds between two kills, at most.
PAUSE_S = 3.0

#: How often each kind of process is killed.
KILLS = {"worker": 10, "sender": 5, "command line": 5, "neo4j": 4, "kafka": 1}


class Journal:
    """What a sender was about to send, and what was confirmed to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def read(self) -> tuple[dict[int, Intent], dict[int, int | None]]:
        """Intents, and the offsets of the confirmed ones, by uid; a line that was cut by a kill is left out."""
        intents: dict[int, Intent] = {}
        confirmed: dict[int, int | None] = {}
        for line in self.path.read_text().splitlines():
            with suppress(json.JSONDecodeError):
                fields = json.loads(line)
                if "confirmed" in fields:
                    confirmed |= {int(uid): offset for uid, offset in fields["confirmed"].items()}
                else:
                    intents[fields["uid"]] = Intent(**fields)
        return intents, confirmed

    def note(self, *lines: dict[str, Any]) -> None:
        """Append."""
        with self.path.open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)


class Senders:
    """Processes that send from Python until they are killed."""

    def __init__(self, replicas: Replicas, folder: Path) -> None:
        self._replicas = replicas
        self._folder = folder
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._starts = 0
        self.journals = {number: Journal(folder / f"sender-{number}.jsonl") for number in SENDERS}

    def start(self, number: int) -> None:
        """Go on behind the last uid of its predecessor."""
        intents = self.journals[number].read()[0]
        first = max(intents, default=number * APART - 1) + 1
        self._starts += 1
        seed = f"{SEED} {number} {self._starts}"
        arguments = [str(self.journals[number].path), str(first), str(first - number * APART), seed]
        with (self._folder / f"sender-{number}.log").open("ab") as log:
            self._processes[number] = subprocess.Popen(
                [sys.executable, "-m", "tests.acceptance.workload_sender", *arguments],
                cwd=ROOT,
                env=environment(self._replicas),
                stdout=log,
                stderr=log,
            )

    def kill(self, number: int) -> None:
        """It must have run until now."""
        process = self._processes.pop(number)
        assert process.poll() is None, (self._folder / f"sender-{number}.log").read_text()[-2000:]
        process.kill()
        process.wait()

    def stop(self) -> None:
        """All of them."""
        for number in list(self._processes):
            self.kill(number)


class CommandLine(Busy):
    """Sends files, one after the other, by the command line, which may be killed meanwhile."""

    def __init__(self, replicas: Replicas, folder: Path, until: float) -> None:
        super().__init__("command line", until)
        self.journal = Journal(folder / "command-line.jsonl")
        self.process: subprocess.Popen[bytes] | None = None
        self._replicas = replicas
        self._file = folder / "commands.jsonl"
        self._random = random.Random(f"{SEED} command line")
        self._count = 0

    def step(self) -> None:
        """One file."""
        intents = [
            one for one in (self._draw() for _ in range(80)) if one.kind not in {"foreign", "transfer", "pieces"}
        ]
        self.journal.note(*(asdict(one) for one in intents))
        self._file.write_text("".join(json.dumps(self._body(one)) + "\n" for one in intents))
        arguments = ["enqueue-command", "--file", str(self._file), "--json", "--state-dir", str(self._file.parent)]
        with (self._file.parent / "command-line.log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "cli.py", *arguments],
                cwd=ROOT,
                env=environment(self._replicas),
                stdout=log,
                stderr=log,
            )
        code = self.process.wait()
        time.sleep(self._random.uniform(0, 3))
        self.done[f"exit code {code}"] += 1
        if code == 0:
            self.journal.note({"confirmed": {one.uid: None for one in intents}})
        assert code in {0, 1, -signal.SIGKILL}, (self._file.parent / "command-line.log").read_text()

    def _draw(self) -> Intent:
        self._count += 1
        return draw(self._random, COMMAND_LINE * APART + self._count, self._count)

    @staticmethod
    def _body(intent: Intent) -> dict[str, Any]:
        text, parameters, options = intent.arguments()
        return {"command": text, "params": parameters, **options}


class Trouble(Busy):
    """Kills one process after the other, and starts each again, until the time is up; then everything runs."""

    def __init__(self, replicas: Replicas, stack: Stack, senders: Senders, line: CommandLine, until: float) -> None:
        super().__init__("trouble", until)
        self._replicas = replicas
        self._stack = stack
        self._senders = senders
        self._line = line
        self._random = random.Random(SEED)
        self._pool = ThreadPoolExecutor()
        self._starting: dict[str, Future[None]] = {}
        self._reached: dict[str, tuple[int, ...]] = {}

    def step(self) -> None:
        """One kill, of what is there to be killed."""
        time.sleep(self._random.uniform(0.2, PAUSE_S))
        kind = self._random.choices(list(KILLS), list(KILLS.values()))[0]
        self.done[kind] += self._kill(kind)

    def end(self) -> None:
        """All of them run again."""
        with self._pool:
            for start in self._starting.values():
                start.result()

    def _kill(self, kind: str) -> bool:
        """Whether there was one to kill."""
        number = self._random.randint(1, 3)
        if kind == "worker":
            name = f"worker-{number}"
            return self._moved(name, number) and self._again(name, self._replicas.kill, self._replicas.start, number)
        if kind == "sender":
            sender = self._random.choice(SENDERS)
            return self._again(f"sender-{sender}", self._senders.kill, self._senders.start, sender)
        if kind == "command line":
            process = self._line.process
            if alive := process is not None and process.poll() is None:
                process.kill()
            return alive
        name = "kafka" if kind == "kafka" else self._replicas.servers[number - 1].name
        concerned = (1, 2, 3) if kind == "kafka" else (number,)
        return self._moved(name, *concerned) and self._again(name, self._kill_server, self._stack.start, name)

    def _moved(self, name: str, *numbers: int) -> bool:
        """Whether the replicas have applied something since *name* was killed: else kills are all that there is."""
        try:
            found = tuple(value(self._replicas.servers[number - 1], POSITION) for number in numbers)
        except (DriverError, Neo4jError):  # one of them is down
            return False
        before = self._reached.get(name, (-1,) * len(found))
        if not all(position > former for position, former in zip(found, before, strict=True)):
            return False
        self._reached[name] = found
        return True

    def _again(self, name: str, kill: Callable[[Any], None], start: Callable[[Any], None], which: Any) -> bool:
        """Kill it, unless it is down, and start it again after a while; others may be killed meanwhile."""
        former = self._starting.get(name)
        if former is not None:
            if not former.done():
                return False
            former.result()
        kill(which)
        pause = self._random.uniform(0, 3)

        def later() -> None:
            time.sleep(pause)
            start(which)

        self._starting[name] = self._pool.submit(later)
        return True

    def _kill_server(self, name: str) -> None:
        """Not by the stack, which would wait until another server has started."""
        pid = next(row.pid for row in self._stack.status() if row.name == name)
        assert pid is not None
        os.killpg(pid, signal.SIGKILL)


def environment(replicas: Replicas) -> dict[str, str]:
    """That of a process that sends."""
    clean = {name: value for name, value in os.environ.items() if name not in environment_names()}
    return clean | replicas.env(1) | {"PYTHONPATH": str(ROOT)}
