"""``neo4j-kafka streams``: the logical databases on one Kafka."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ops.console import Command, json_option, print_json, print_table, state_dir_option


if TYPE_CHECKING:
    from pathlib import Path


@click.command(cls=Command)
@state_dir_option
@json_option
def streams(*, state_dir: Path, as_json: bool) -> None:
    """List the logical databases on this Kafka: their logs, their replicas, and how far each of those is.

    The one without a name is that of STREAM not set.
    """
    from ops.connection import settings_for
    from ops.streams import streams as found

    rows = found(settings_for(state_dir))
    if as_json:
        print_json({"streams": [asdict(row) for row in rows]})
        return
    titles = ("stream", "log", "commands", "replicas")
    print_table(
        titles,
        [
            (
                row.stream or "(no name)",
                row.topic,
                f"{row.commands:,}",
                ", ".join(f"{name}: {'none yet' if at < 0 else at}" for name, at in row.replicas.items()) or "none",
            )
            for row in rows
        ],
    )
