"""``neo4j-kafka keys``: the keys with which messages are signed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ops.console import Group, json_option, print_json, print_table


if TYPE_CHECKING:
    from brokers.keyring import KeyRing

file_option = click.option(
    "--file",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("keys.json"),
    show_default=True,
    help="The key ring; SIGNING_KEYS names it for senders and workers.",
)


@click.group(cls=Group)
def keys() -> None:
    """Make and exchange the keys with which messages are signed.

    To exchange a key: `new`, give the file to all who verify, `use`, give it to all who sign.  A key stays in the ring
    as long as a record that is signed with it: for commands that is for ever.
    """


@keys.command()
@click.option(
    "--algorithm",
    type=click.Choice(["hmac-sha256", "ed25519"]),
    default="hmac-sha256",
    show_default=True,
    help="One secret for all, or a private half to sign and a public one to verify.",
)
@file_option
@json_option
def new(*, algorithm: Any, path: Path, as_json: bool) -> None:
    """Add a key to the ring, which is made if need be; the first one signs at once."""
    from brokers.keyring import KeyRing, load, new_key, save

    ring = load(path) if path.exists() else KeyRing()
    key = new_key(algorithm)
    ring = ring.with_key(key)
    save(ring, path)
    _show(ring, path, as_json=as_json, new=key.id)


@keys.command("list")
@file_option
@json_option
def list_(*, path: Path, as_json: bool) -> None:
    """Show the keys of the ring, without their secrets."""
    from brokers.keyring import load

    _show(load(path), path, as_json=as_json)


@keys.command()
@click.argument("key_id")
@file_option
@json_option
def use(*, key_id: str, path: Path, as_json: bool) -> None:
    """Sign with another key of the ring from now on."""
    from dataclasses import replace

    from brokers.keyring import load, save

    ring = replace(load(path), sign_with=key_id)
    save(ring, path)
    _show(ring, path, as_json=as_json)


@keys.command()
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
@file_option
@json_option
def public(*, target: Path, path: Path, as_json: bool) -> None:
    """Write a ring that only verifies to TARGET; for ed25519."""
    from brokers.keyring import load, save

    ring = load(path).public()
    save(ring, target)
    _show(ring, target, as_json=as_json)


def _show(ring: KeyRing, path: Path, *, as_json: bool, **further: str) -> None:
    from brokers.keyring import describe

    rows = describe(ring)
    if as_json:
        print_json({"file": str(path), "keys": rows, **further})
        return
    print_table(("key", "algorithm", ""), [(row["id"], row["algorithm"], _use_of(row)) for row in rows])
    if path.stat().st_mode & 0o077:
        click.secho(f"{path} can be read by others than its owner.", fg="yellow", err=True)


def _use_of(row: dict[str, Any]) -> str:
    if row["signs"]:
        return "signs"
    return "can sign" if row["can_sign"] else "" if row["algorithm"] == "refused" else "verifies"
