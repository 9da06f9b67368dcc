"""What the benchmarks share: servers of their own, peers in processes of their own, medians, one JSON object."""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ops.stack import Stack


if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

ROOT = Path(__file__).resolve().parent.parent

#: Longest run of one measurement in a process of its own, in seconds.
LIMIT_S = 180.0


@contextmanager
def servers(*names: str) -> Iterator[dict[str, str]]:
    """Fresh servers of a local stack, by name; stopped, and their data deleted, at the end."""
    folder = Path(tempfile.mkdtemp(prefix="benchmark-"))
    stack = Stack(folder)
    try:
        stack.start(*names)
        yield {row.name: row.uri for row in stack.status()}
    finally:
        stack.down()
        shutil.rmtree(folder, ignore_errors=True)


def alone(module: str, task: Mapping[str, Any]) -> Any:
    """What ``python -m <module> <task as JSON>`` prints as JSON: nothing that ran before is in its way.

    Raises:
      RuntimeError: it failed; the text is the end of what it said.
    """
    command = [sys.executable, "-m", module, json.dumps(task)]
    try:
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)  # noqa: S603 - our own modules
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"not done after {LIMIT_S:g} s") from None
    if ended.returncode:
        raise RuntimeError(ended.stderr.strip()[-300:] or f"exit code {ended.returncode}")
    return json.loads(ended.stdout.splitlines()[-1])


def note(text: str) -> None:
    """Tell on stderr what goes on; stdout belongs to the result."""
    print(text, file=sys.stderr, flush=True)


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of what was measured, and of what it ran on."""
    found = {"python": platform.python_version(), "cores": str(os.cpu_count())}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def median(values: Iterable[float]) -> float:
    """The median, with three digits that mean something."""
    return float(f"{statistics.median(values):.4g}")


def quantile(values: Iterable[float], share: float) -> float:
    """The value that *share* of all do not exceed."""
    ordered = sorted(values)
    return float(f"{ordered[min(int(len(ordered) * share), len(ordered) - 1)]:.4g}")
