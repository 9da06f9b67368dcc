"""A RabbitMQ of the benchmark's own, where the machine has one; it is in no Python package."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ops.processes import free_ports, is_open, wait_for


if TYPE_CHECKING:
    from collections.abc import Iterator

#: Where Debian keeps the script that does not change users.
PROGRAM = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")

START_S = 60.0


def installed() -> bool:
    """Whether there is one to start."""
    return PROGRAM.exists()


@contextmanager
def rabbitmq() -> Iterator[str]:
    """Its URL, while it runs."""
    folder = tempfile.mkdtemp(prefix="benchmark-rabbitmq-")
    port, names, distribution = free_ports(3, set())
    environment = os.environ | {
        "HOME": folder,
        "RABBITMQ_NODENAME": f"bench-{port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_MNESIA_BASE": folder,
        "RABBITMQ_LOG_BASE": folder,
        "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/plugins",
        "ERL_EPMD_PORT": str(names),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
    }
    server = subprocess.Popen(  # noqa: S603 - a fixed path
        [str(PROGRAM)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        if not wait_for(lambda: is_open(port), START_S):
            raise RuntimeError(f"RabbitMQ does not answer after {START_S:g} s")
        yield f"amqp://guest:guest@{socket.gethostbyname('localhost')}:{port}"
    finally:
        server.terminate()
        server.wait(START_S)
        subprocess.run(["epmd", "-port", str(names), "-kill"], check=False, capture_output=True)  # noqa: S603, S607 - its own
        shutil.rmtree(folder, ignore_errors=True)
