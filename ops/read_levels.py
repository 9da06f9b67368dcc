"""`--at-least`, `--max-lag`, `--linearizable`, `--snapshot`: how fresh an answer has to be, on the command line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click


if TYPE_CHECKING:
    from collections.abc import Callable

_lag = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)|(\d+)")

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Lag(click.ParamType[tuple[str, float]]):
    """``5s`` is a number of seconds, ``100`` one of offsets; as the option that it stands for, and its value."""

    name = "lag"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        """Read *value*."""
        if isinstance(value, tuple):
            return value
        found = _lag.fullmatch(value)
        if found is None:
            self.fail(f"{value!r} is neither a time, such as 500ms, 5s or 2m, nor a number of offsets.", param, ctx)
        if found[3] is not None:
            return "max_lag", int(found[3])
        return "max_lag_s", float(found[1]) * _UNITS[found[2]]


def level_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options, for a command that takes ``at_least``, ``max_lag``, ``linearizable`` and ``snapshot``."""
    options = (
        click.option(
            "--at-least",
            metavar="OFFSET|TOKEN|last",
            help="Only from a replica that has this command: an offset, a session's token, or the log's last one.",
        ),
        click.option(
            "--max-lag",
            type=Lag(),
            multiple=True,
            metavar="5s|100",
            help="Only from a replica that is behind by less time, or by no more offsets; both may be given.",
        ),
        click.option("--linearizable", is_flag=True, help="Only with every command that is in the log by now."),
        click.option("--snapshot", is_flag=True, help="All rows of one position, no command half-way."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def query_options(
    *,
    at_least: str | None,
    max_lag: tuple[tuple[str, float], ...],
    linearizable: bool,
    snapshot: bool,
) -> dict[str, Any]:
    """The options of `send_with_options` that these mean.

    Raises:
      click.UsageError: they contradict each other.
    """
    found: dict[str, Any] = dict(max_lag)
    if len(found) < len(max_lag):
        raise click.UsageError("--max-lag may be given twice, once as a time and once as a number of offsets.")
    if at_least == "last":
        linearizable = True
    elif at_least is not None:
        found["at_least"] = int(at_least) if at_least.isdecimal() else at_least
    if linearizable and found:
        raise click.UsageError("--linearizable, or --at-least last, is as fresh as can be: leave the other levels out.")
    found |= {"linearizable": True} if linearizable else {}
    found |= {"snapshot": True} if snapshot else {}
    return found
