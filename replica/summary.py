"""What a server says about a result when it has ended: what it did, how long it took, what it would have us know."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final


if TYPE_CHECKING:
    from collections.abc import Mapping

    import neo4j

#: Notifications of one result that are passed on; a text of a thousand clauses must not fill a record with them.
NOTIFICATIONS: Final = 20

#: Letters of a plan that are passed on, for the same reason.
PLAN: Final = 100_000


@dataclass(frozen=True, slots=True)
class Summary:
    """*available_ms*: until the first row was there, *consumed_ms*: from then on, both as the server counts them.

    *counters* has those that are not zero, none for what reads.  Each notification is plain JSON: ``gql_status``,
    ``description``, ``severity``, ``classification``, ``position``.  *plan*, of EXPLAIN, is the server's own drawing.
    """

    query_type: str | None = None
    server: str = ""
    available_ms: int | None = None
    consumed_ms: int | None = None
    counters: Mapping[str, int] = field(default_factory=dict)
    notifications: tuple[Mapping[str, Any], ...] = ()
    plan: str = ""


def summary_of(told: neo4j.ResultSummary) -> Summary:
    """What the driver has of it."""
    statuses = [status for status in told.gql_status_objects if status.is_notification]
    return Summary(
        query_type=told.query_type,
        server=told.server.agent,
        available_ms=told.result_available_after,
        consumed_ms=told.result_consumed_after,
        counters={name: count for name, count in vars(told.counters).items() if type(count) is int and count},
        notifications=tuple(_notification(status) for status in statuses[:NOTIFICATIONS]),
        plan=_drawn(told.plan or {}),
    )


def _drawn(plan: Mapping[str, Any]) -> str:
    drawn = str(plan.get("args", {}).get("string-representation", ""))
    return drawn if len(drawn) <= PLAN else f"{drawn[:PLAN]}\n..."


def _notification(status: neo4j.GqlStatusObject) -> dict[str, Any]:
    position = status.position
    return {
        "gql_status": status.gql_status,
        "description": status.status_description,
        "severity": status.raw_severity,
        "classification": status.raw_classification,
        "position": None
        if position is None
        else {"line": position.line, "column": position.column, "offset": position.offset},
    }
