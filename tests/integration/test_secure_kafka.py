"""A Kafka that asks who is there: what gets in works, and what does not is told why, and which setting it was."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import dramatiq
import pytest

from brokers import KafkaBroker
from brokers.errors import DeliveryUnknown, Unreachable
from ops.errors import JarsUnavailable, PackageMissing
from settings import Settings, environment_names
from tasks.app import App
from tasks.errors import TasksError
from tests.conftest import ROOT, give_up
from tests.secure_kafka import KEY_PASSWORD, PASSWORD, USER, Authority, secure_kafka
from tests.support import unique, wait_until


if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from tests.secure_kafka import Running

#: Nothing of the machine's own settings.
CLEAN: dict[str, str | None] = dict.fromkeys(environment_names())

SCRAM = {"B_USERNAME": USER, "B_PASSWORD": PASSWORD}
PLAIN = SCRAM | {"B_SASL_MECHANISM": "PLAIN"}
OPEN = {"B_SECURITY_PROTOCOL": "SASL_PLAINTEXT"}
CA = {"B_SSL_CA": "ca.pem"}
CLIENT = CA | {"B_SSL_CERTIFICATE": "client.pem", "B_SSL_KEY": "client.key", "B_SSL_KEY_PASSWORD": KEY_PASSWORD}
FORMER = CA | {"B_SSL_CERTIFICATE": "former-client.pem", "B_SSL_KEY": "former-client.key"}

#: What gets in: the listener, and the settings.
RIGHT = {
    "SCRAM": ("sasl_plaintext", SCRAM | OPEN),
    "PLAIN": ("sasl_plaintext", PLAIN | OPEN),
    "SCRAM over TLS": ("sasl_ssl", SCRAM | CA),
    "mutual TLS": ("ssl", CLIENT),
}

#: What does not: the listener, the settings, and what the error has to name.
WRONG = {
    "wrong password": ("sasl_ssl", SCRAM | CA | {"B_PASSWORD": "wrong"}, ("invalid credentials", "B_PASSWORD")),
    "wrong mechanism": (
        "sasl_plaintext",
        SCRAM | OPEN | {"B_SASL_MECHANISM": "SCRAM-SHA-512"},
        ("Unsupported SASL mechanism", "B_SASL_MECHANISM"),
    ),
    "wrong authority": ("sasl_ssl", SCRAM | {"B_SSL_CA": "other/ca.pem"}, ("certificate verify failed", "B_SSL_CA")),
    "expired server": ("expired", CA, ("certificate verify failed", "has expired")),
    "no certificate": ("ssl", CA, ("certificate required", "B_SSL_CERTIFICATE")),
    "expired client": ("ssl", FORMER, ("alert certificate", "B_SSL_CERTIFICATE")),
    "plaintext on a TLS port": ("sasl_ssl", {}, ("brokers are down", "B_SECURITY_PROTOCOL")),
    "TLS on a plaintext port": ("broker", CA, ("closed by peer", "B_SECURITY_PROTOCOL")),
}


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The server; every test here may use it at once."""
    try:
        with secure_kafka(tmp_path_factory.mktemp("secure")) as running:
            Authority(running.certificates / "other")
            yield running
    except (JarsUnavailable, PackageMissing) as error:
        give_up(error)


def environment(secure: Running, listener: str, given: dict[str, str]) -> dict[str, str]:
    """*given*, with certificates' names as paths."""
    paths = {name: str(secure.certificates / value) for name, value in given.items() if value.endswith(("pem", "key"))}
    return {"BROKERS": secure.address(listener), **given, **paths}


def broker_of(variables: dict[str, str], prefix: str, timeout_s: float = 2.0) -> KafkaBroker:
    """A broker with these settings."""
    values: dict[str, Any] = variables
    client: dict[str, Any] = {name.replace(".", "_"): value for name, value in Settings(**values).kafka().items()}
    return KafkaBroker(**client, prefix=prefix, group_id=prefix, delivery_timeout_s=timeout_s)


@pytest.mark.parametrize(("listener", "given"), RIGHT.values(), ids=RIGHT)
def test_who_may_enter_sends(secure: Running, listener: str, given: dict[str, str]) -> None:
    """One confirmed message on a topic that was made for it."""
    broker = broker_of(environment(secure, listener, given), unique(), 8)

    @dramatiq.actor(broker=broker)
    def work() -> None: ...

    sent: Any = work.send()
    assert sent.delivery.offset == 0
    broker.close()


def complaint(secure: Running, listener: str, given: dict[str, str]) -> str:
    """What a sender is told."""
    broker = broker_of(environment(secure, listener, given), unique())

    @dramatiq.actor(broker=broker)
    def work() -> None: ...

    with pytest.raises((Unreachable, DeliveryUnknown)) as caught:
        work.send()
    broker.close()
    return str(caught.value)


def complaint_of_the_program(secure: Running, listener: str, given: dict[str, str]) -> str:
    """What a person is told: in one line, without a traceback."""
    clean = {name: value for name, value in os.environ.items() if name not in CLEAN}
    variables = clean | environment(secure, listener, given)
    command = [sys.executable, str(ROOT / "cli.py"), "init"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
    return done.stderr


def ask_all(secure: Running, ask: Callable[[Running, str, dict[str, str]], str], cases: Iterable[str]) -> None:
    """All at once, since each of them has to wait for its time-out."""
    with ThreadPoolExecutor(len(WRONG)) as pool:
        told = {name: pool.submit(ask, secure, *WRONG[name][:2]) for name in cases}
    for name, future in told.items():
        for words in WRONG[name][2]:
            assert words in future.result(), name


def test_who_may_not_is_told_why(secure: Running) -> None:
    """The cause, and the setting to look at, within the time-out."""
    ask_all(secure, complaint, WRONG)


def test_the_command_line_says_why(secure: Running) -> None:
    """With exit code 1."""
    ask_all(secure, complaint_of_the_program, ["wrong password"])


@pytest.mark.slow
def test_the_command_line_says_why_in_every_case(secure: Running) -> None:
    """Eight programs at once."""
    ask_all(secure, complaint_of_the_program, WRONG)


@pytest.fixture
def app(secure: Running, tmp_path: Path) -> Iterator[App]:
    """A caller over SASL and TLS, and a worker process that does the same; its database is nowhere."""
    prefix = unique() + "-"
    variables = environment(secure, "sasl_ssl", SCRAM | CA) | {
        "B_TOPIC_PREFIX": prefix,
        "QUERY_GROUP_ID": prefix,
        "NEO4J_URI": "bolt://127.0.0.1:1",
        "PYTHONPATH": str(ROOT),
        "PATH": "/usr/bin",
    }
    command = [sys.executable, "-m", "dramatiq", "tests.integration.secure_worker", "--processes", "1"]
    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=log, stderr=log)
    values: dict[str, Any] = {name: value for name, value in variables.items() if name in CLEAN}
    app = App(Settings(**values))
    try:
        yield app
        worker.terminate()
        assert worker.wait(30) == 0
    finally:
        app.close()
        worker.kill()


def test_all_that_a_worker_does_it_does_over_tls(app: App) -> None:
    """Messages, delays and retries by timers, replies, and a query that is answered (with an error: no database)."""

    @dramatiq.actor(broker=app.broker)
    def echo(text: str, *, fail_first: bool = False) -> None: ...

    waiters = {text: app.replies.expect(text) for text in ("now", "later", "again")}
    echo.send("now")
    echo.send_with_options(args=("later",), delay=300)
    echo.send("again", fail_first=True)
    for text, waiter in waiters.items():
        assert waiter.get(60) is not None, text
    with pytest.raises(TasksError):
        app.run_query.send_with_options(args=("RETURN 1",), timeout="long").get(30)


@pytest.mark.slow
def test_a_worker_goes_on_trying(secure: Running, caplog: pytest.LogCaptureFixture) -> None:
    """With a wrong password it says so, and again; it does not end."""
    broker = broker_of(environment(secure, "sasl_plaintext", SCRAM | OPEN | {"B_PASSWORD": "wrong"}), unique(), 1)

    @dramatiq.actor(broker=broker)
    def work() -> None: ...

    worker = dramatiq.Worker(broker, worker_timeout=100, worker_threads=1)
    worker.start()
    failures = "Consumer encountered a connection error"
    wait_until(lambda: caplog.text.count(failures) >= 2, 20, "a second try")
    assert "B_PASSWORD" in caplog.text
    worker.stop()
    broker.close()
