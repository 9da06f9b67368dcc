"""The command line, which kills itself at a given point of ``replica add`` or ``replica repair``.

``python -m tests.integration.seeding_crasher POINT ARGUMENT...``
"""

from __future__ import annotations

import sys
from typing import Any, Final

import cli
from ops.seeding import _Seeding
from replica import emptying
from replica.snapshot_restore import _Restore
from tests.integration.schema_crasher import dying


#: Where it may die: a method or function, before or after it runs.
POINTS: Final[dict[str, tuple[Any, str, bool]]] = {
    "nothing is decided": (_Seeding, "quarantine", False),
    "it is quarantined": (_Seeding, "quarantine", True),
    "the database is claimed": (emptying, "claim", True),
    "the nodes are gone and the schema is not": (emptying, "drop_schema", False),
    "the database is empty": (emptying, "empty", True),
    "the snapshot is half restored": (_Restore, "_settle", False),
    "the graph is what it begins with": (_Seeding, "_restore", True),
    "it catches up": (_Seeding, "_catch_up", False),
    "it has caught up": (_Seeding, "_catch_up", True),
    "it is verified": (_Seeding, "_verify", True),
    "its quarantine has ended": (_Seeding, "seed", True),
}


def main(point: str, *arguments: str) -> None:
    """Never returns, unless the command does not come to *point*."""
    owner, name, after = POINTS[point]
    setattr(owner, name, dying(getattr(owner, name), after=after))
    cli.main(list(arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
