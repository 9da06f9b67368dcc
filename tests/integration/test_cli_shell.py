"""The shell on real servers: as a script, and as a person at a terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from ops.shell import Shell
from tests.replicas import ROOT, Replicas, replicas_of, value
from tests.support import wait_until


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Neo4jServer


@pytest.fixture(scope="module")
def replicas(kafka: str, neo4j: Neo4jServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    """One replica with a worker that has begun to apply and to answer."""
    with replicas_of(kafka, (neo4j,), tmp_path_factory.mktemp("shell")) as found:
        app = found.app()
        app.run_command.send("CREATE (:User {name: 'first'})").wait(timeout=60)
        app.run_query.send("RETURN 1 AS n").get(30)
        yield found


def environment(replicas: Replicas) -> dict[str, str]:
    """A user's, at the replica."""
    return {**os.environ, **replicas.env(), "HOME": str(replicas.logs), "TERM": "xterm"}


def shell(replicas: Replicas, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    """A script."""
    command = [sys.executable, "cli.py", "shell", *options]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment(replicas),
        input=text,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def told(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """Its objects."""
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_script_writes_and_reads_its_own_writes(replicas: Replicas) -> None:
    """Each statement goes where its words say, with the parameters that it uses."""
    text = """
        :param name "script"
        :param unused 5
        MERGE (u:User {name: $name})
          SET u.age = 30;  // a comment; with a semicolon
        MATCH (u:User {name: $name}) RETURN u.age AS age;
        :command RETURN 1;
        MATCH (u:User) RETURN count(u) AS users
    """
    done = shell(replicas, text, "--json")

    assert (done.returncode, done.stderr) == (0, "")
    first, second, wrote, read, forced, last = told(done)
    assert first == {"parameters": {"name": "script"}}
    assert second["parameters"]["unused"] == 5
    assert wrote["applied_by"] == [replicas.env()["GROUP_ID"]]
    assert (read["rows"], read["replica"]) == ([{"age": 30}], replicas.env()["GROUP_ID"])
    assert read["position"] >= wrote["offset"]
    assert forced["offset"] == wrote["offset"] + 1
    assert last["rows"] == [{"users": 2}]


def test_in_a_pipe_rows_are_lines(replicas: Replicas) -> None:
    """And what is no row stands on standard error."""
    done = shell(replicas, "RETURN 1 AS n, 'a\tb' AS text;\nMERGE (:User {name: 'pipe'});")

    assert done.stdout == "n\ttext\n1\ta\\x09b\n"
    assert re.search(
        r"1 row from \S+, at command \d+, in [\d,]+ ms \(.+\)\nCommand \d+, applied by \S+, in", done.stderr
    )


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("RETURN x;", "SyntaxError"),
        ("RETURN $missing;", r"\$missing has no value: `:param missing VALUE`"),
        ("CREATE (:User {id: elementId($p)});", "has no value"),
        ("CREATE (n) SET n.x = apoc.x();", "not known to be deterministic"),
        (":query CREATE (:Never);", "NotReadOnly"),
        (":level newest", "there is no level 'newest'"),
        ("RETURN 'open", "never closed"),
        (":nonsense", "there is no :nonsense"),
    ],
)
def test_the_first_error_ends_a_script(replicas: Replicas, statement: str, says: str) -> None:
    """Told with its line, without a traceback; nothing behind it is run."""
    done = shell(replicas, f"RETURN 1 AS n;\n\n{statement}\nCREATE (:Never);\n")

    assert done.returncode == 1
    assert done.stdout == "n\n1\n"
    assert re.search(f"line [34]: .*{says}", done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert value(replicas.servers[0], "MATCH (n:Never) RETURN count(n)") == 0


def test_an_error_is_an_object_for_programs(replicas: Replicas) -> None:
    """With the line, too."""
    done = shell(replicas, "RETURN 1 AS n;\nRETURN x;\n", "--json")

    assert done.returncode == 1
    assert told(done)[1]["error"]["line"] == 2
    assert "SyntaxError" in told(done)[1]["error"]["message"]


def test_directives_tell_what_they_promise(replicas: Replicas) -> None:
    """Levels, explanations, replicas, help."""
    text = """
        :level
        :level linearizable
        RETURN 1 AS n;
        :level max_lag 5s
        RETURN 1 AS n;
        :level at_least 0
        RETURN 1 AS n;
        :explain CREATE (:Event {at: datetime()});
        :explain LOAD CSV FROM 'file:///x' AS line RETURN line;
        :status
        :help
        :params clear
        :quit
        RETURN x;
    """
    done = shell(replicas, text, "--json")

    assert (done.returncode, done.stderr) == (0, "")
    found = told(done)
    assert [one["level"] for one in found if "level" in one] == [
        "session",
        "linearizable",
        "max_lag 5s",
        "at_least 0",
    ]
    assert [one["rows"] for one in found if "rows" in one] == [[{"n": 1}]] * 3
    explained, refused = [one for one in found if "explain" in one]
    assert (explained["kind"], explained["verdict"]) == ("command", "frozen")
    assert "LOAD CSV" in refused["refused"]
    [status] = [one["replicas"] for one in found if "replicas" in one]
    assert [row["name"] for row in status] == [replicas.env()["GROUP_ID"]]
    assert found[-1] == {"parameters": {}}


def test_the_names_of_the_graph_can_be_completed(replicas: Replicas) -> None:
    """All but the label of the position, which no statement may name."""
    app = replicas.app()
    wrote = "CREATE (:Completed {completing: 1})-[:COMPLETES]->(:Completed)"
    app.run_command.send(wrote).wait(timeout=20)
    here = Shell(app, app.settings, timeout_s=10, as_json=False)
    here.parameters["mine"] = 1

    here.look_up()

    known = here.names()
    assert {"User", "Completed"} <= set(known.labels)
    assert not any(label.startswith("_Kafka") for label in known.labels)
    assert "COMPLETES" in known.types
    assert {"name", "completing"} <= set(known.keys)
    assert known.parameters == ("mine",)


class Terminal:
    """A terminal of 80 columns with the shell on it."""

    def __init__(self, replicas: Replicas, history: Path) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        command = [sys.executable, "cli.py", "shell", "--history", str(history)]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(replicas),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        os.set_blocking(self._master, False)
        self.text = ""

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def interrupt(self) -> None:
        """Ctrl-C, as a terminal sends it while a program runs."""
        os.killpg(self.process.pid, 2)

    def shows(self, *parts: str) -> bool:
        """Whether all of *parts* have appeared, one behind the other, since the last time that all had."""
        with suppress(OSError):  # nothing new, or nobody there
            self.text += os.read(self._master, 65_536).decode(errors="replace")
        if re.search(".*".join(map(re.escape, parts)), self.text, re.DOTALL) is None:
            return False
        self.text = ""
        return True

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)


def test_a_person_types_interrupts_and_leaves(replicas: Replicas, tmp_path: Path) -> None:
    """Over several lines; a slow query is ended by Ctrl-C, and the shell goes on."""
    terminal = Terminal(replicas, tmp_path / "history")
    try:
        wait_until(lambda: terminal.shows("neo4j-kafka>"), 30, "the prompt")
        terminal.type("UNWIND [1, 2] AS n\rRETURN n AS number, 'row' AS text;\r")
        wait_until(lambda: terminal.shows("number", "2 rows from", " ms"), 20, "the answer")

        terminal.type("UNWIND range(1, 2000000000) AS n RETURN max(n) AS slow;\r")
        wait_until(lambda: _running(replicas), 20, "the slow query to run")
        terminal.interrupt()
        said = f"Interrupted: the query was cancelled on {replicas.env()['GROUP_ID']}."
        wait_until(lambda: terminal.shows(said, "neo4j-kafka>"), 10, "the prompt again")
        wait_until(lambda: not _running(replicas), 10, "the query to end on the server")

        terminal.type("MERGE (:User {name: 'typed'});\r")
        wait_until(lambda: terminal.shows("applied by", "neo4j-kafka>"), 20, "the command, and the prompt again")
        terminal.type("\x04")
        wait_until(lambda: terminal.process.poll() is not None, 20, "the end")
        assert terminal.process.returncode == 0
        assert "Traceback" not in terminal.text
    finally:
        terminal.close()
    assert value(replicas.servers[0], "MATCH (u:User {name: 'typed'}) RETURN count(u)") == 1
    assert "+UNWIND [1, 2] AS n" in (tmp_path / "history").read_text()


def _running(replicas: Replicas) -> bool:
    text = "SHOW TRANSACTIONS YIELD currentQuery WHERE currentQuery CONTAINS 'AS slow' RETURN count(*) AS n"
    return int(value(replicas.servers[0], text)) >= 2  # the slow one, and the one that looks
