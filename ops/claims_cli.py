"""``neo4j-kafka claims``: the store of contents that are too large for a record."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from ops.console import Group, json_option, print_json, print_table


@click.group(cls=Group)
def claims() -> None:
    """Look after the store of contents that are too large for a record (CLAIM_STORE)."""


@claims.command()
@click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".stack"),
    show_default=True,
    help="Of the local stack.",
)
@json_option
def prune(*, state_dir: Path, as_json: bool) -> None:
    """Delete contents whose records are gone from their topic, and from its dead letters.

    Kafka is asked how long it keeps them.  Contents of topics that are kept for ever stay.
    """
    from ops.claims import prune as do
    from ops.connection import settings_for

    rows = do(settings_for(state_dir))
    if as_json:
        print_json({"topics": [asdict(row) for row in rows]})
        return
    titles = ("topic", "kept, days", "deleted", "bytes")
    print_table(titles, [(r.topic, r.kept_days or "for ever", r.deleted, f"{r.bytes:,}") for r in rows])
