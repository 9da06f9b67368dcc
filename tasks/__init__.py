"""Where brokers and replica meet: the actors.

    from tasks import run_command, run_query, command, query, session, fetch_result, Statement

``dramatiq tasks`` runs the workers of the replica that the environment names (see `settings`).  Importing connects to
nothing.
"""

from __future__ import annotations

import dramatiq

from replica.statement import Statement
from settings import get_settings
from tasks.app import App


app = App(get_settings())
broker = app.broker
dramatiq.set_broker(broker)

run_command = app.run_command
run_query = app.run_query
command = app.command
query = app.query
session = app.session
fetch_result = app.fetch_result

__all__ = [
    "App",
    "Statement",
    "app",
    "broker",
    "command",
    "fetch_result",
    "query",
    "run_command",
    "run_query",
    "session",
]
