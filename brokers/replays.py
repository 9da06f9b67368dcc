"""What a replayed message carries so that a poison does not go round for ever, and keeps its history."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace


if TYPE_CHECKING:
    from collections.abc import Mapping

    from brokers.records import Outgoing, Record

#: The headers of a replayed record: how often it was put back, and what had happened before each time (JSON).
COUNT = "replay.count"
HISTORY = "replay.history"

#: Entries of a history that are kept, the newest ones, and characters of each one's reason.
HISTORY_ENTRIES = 10
HISTORY_REASON_CHARS = 200

#: Digits of a header that is read as a number.
LONGEST_NUMBER = 18


def number(headers: Mapping[str, bytes], name: str) -> int | None:
    """The whole number in a header; none where there is none: anybody may write to a topic."""
    text = headers.get(name, b"")
    return int(text) if text.isdigit() and len(text) <= LONGEST_NUMBER else None


def history(headers: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """What happened before each replay, oldest first."""
    try:
        found = json.loads(headers.get(HISTORY, b"[]"))
    except ValueError:
        return []
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def again(headers: Mapping[str, bytes], entry: dict[str, Any]) -> dict[str, bytes]:
    """The headers of a letter that is put back: the record's own, one replay more, and *entry* of its history."""
    entry = entry | {"reason": str(entry.get("reason", ""))[:HISTORY_REASON_CHARS]}
    entries = [*history(headers), entry][-HISTORY_ENTRIES:]
    own = {name: value for name, value in headers.items() if not name.startswith("xq.")}
    return own | {
        COUNT: str((number(headers, COUNT) or 0) + 1).encode(),
        HISTORY: json.dumps(entries, ensure_ascii=False).encode("utf-8", "backslashreplace"),
    }


def carried(record: Outgoing, cause: Record) -> Outgoing:
    """*record*, a retry of the message in *cause*, with what *cause* carries."""
    carries = {name: cause.headers[name] for name in (COUNT, HISTORY) if name in cause.headers}
    return replace(record, headers={**record.headers, **carries}) if carries else record
