"""`result`: answers that are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tasks.errors import StoreMissing
from tasks.kept import Kept


if TYPE_CHECKING:
    from settings import Settings


def fetched(settings: Settings, message_id: str, wait_s: float) -> Any:
    """The rows or the value; Kafka is not asked.  Raises as `App.fetch_result` does."""
    if settings.redis_url is None:
        raise StoreMissing("answers are kept in Redis: set REDIS_URL to that of the workers")
    kept = Kept(settings.redis_url, settings.topic_prefix)
    try:
        return kept.result(message_id, wait_s)
    finally:
        kept.close()
