"""The command line, which kills itself at a given point of ``replica add`` or ``replica repair``.

``python -m tests.integration.seeding_crasher POINT ARGUMENT...``
"""

from __future__ import annotations

import sys
from typing import Final

import cli
from ops.seeding import _Seeding
from replica import emptying
from replica.snapshot_restore import _Restore
from tests.integration.dying import Place, after, before


#: Where it may die.
POINTS: Final[dict[str, Place]] = {
    "nothing is decided": before(_Seeding, "quarantine"),
    "it is quarantined": after(_Seeding, "quarantine"),
    "the database is claimed": after(emptying, "claim"),
    "the nodes are gone and the schema is not": before(emptying, "drop_schema"),
    "the database is empty": after(emptying, "empty"),
    "the snapshot is half restored": before(_Restore, "_settle"),
    "the graph is what it begins with": after(_Seeding, "_restore"),
    "it catches up": before(_Seeding, "_catch_up"),
    "it has caught up": after(_Seeding, "_catch_up"),
    "it is verified": after(_Seeding, "_verify"),
    "its quarantine has ended": after(_Seeding, "seed"),
}


def main(point: str, *arguments: str) -> None:
    """Never returns, unless the command does not come to *point*."""
    POINTS[point].die_here()
    cli.main(list(arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
