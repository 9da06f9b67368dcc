"""Become a worker: this process turns into ``dramatiq``, so that signals reach it directly."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NoReturn

from ops.servers import PROJECT


if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def become(arguments: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    """Replace this process by ``dramatiq tasks`` with *arguments*, in this environment with *environment* over it."""
    # Defaults first, so that the user's word is the last one; a list of folders never just before a module's name.
    options = ["--path", ".", str(PROJECT), "--processes", "1", "--threads", "8"]
    command = [sys.executable, "-m", "dramatiq", *options, "tasks", *arguments]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, command, {**os.environ, **environment})  # noqa: S606  # no shell is wanted
