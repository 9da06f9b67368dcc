"""Commands that commit in transactions of their own: CALL { ... } IN TRANSACTIONS, declared idempotent.

They take the three steps of a schema command, since they cannot share a transaction with the position either: intent,
the statement itself outside of the position's transaction but under its lock, position.  A crash in between runs it
again from its beginning, which its author has allowed.

An error of the allow-list ends it as rejected *with the batches before it kept*: all replicas have cut the same batches
(see `replica.batching`), so they keep the same.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import Final, LiteralString

import neo4j
from neo4j.exceptions import Neo4jError

from replica.errors import Unavailable
from replica.outcomes import NOT_ENCODABLE, code_of, is_deterministic, message_of
from replica.schema import SchemaChange
from replica.statement import Outcome
from replica.transactions import ENCODING_ERRORS


_logger = logging.getLogger(__name__)

#: Under which a transaction of ours says which command it is.
TAG: Final = "kafka_command"

# leftovers -- What an attempt before a crash may have left at work on the server.
LEFTOVERS: Final[LiteralString] = (
    "SHOW TRANSACTIONS YIELD transactionId, metaData WHERE metaData.kafka_command = $tag RETURN transactionId AS id"
)
# end -- Ask the server to end them; it does so at its next look.
END: Final[LiteralString] = "TERMINATE TRANSACTIONS $ids"

#: Seconds for what was terminated to be gone, and between two looks.
_GONE_S: Final = 30.0
_POLL_S: Final = 0.05


class Pieces(SchemaChange):
    """One such command.  *database.timeout_s* bounds all of it."""

    def change(self, *, existed: bool) -> tuple[Outcome, Counter[str]]:
        """Step 2.  Nothing is counted, since a repetition would count again.  Raises what is no verdict."""
        del existed
        self._end_leftovers()
        query = neo4j.Query(self._statement.text, metadata={TAG: self._tag}, timeout=self._database.timeout_s)
        try:
            with self._database.session() as session:
                for _ in (result := session.run(query, dict(self._statement.parameters))):
                    pass  # an error in the last row counts
                result.consume()
        except ENCODING_ERRORS as error:
            return Outcome(self._offset, applied=False, code=NOT_ENCODABLE, message=str(error)), Counter()
        except Neo4jError as error:
            if not is_deterministic(code_of(error), message=message_of(error)):
                raise
            return Outcome(self._offset, applied=False, code=code_of(error), message=message_of(error)), Counter()
        return Outcome(self._offset, applied=True), Counter()

    @property
    def _tag(self) -> str:
        return f"{self._key.topic}/{self._key.partition}/{self._offset}"

    def _end_leftovers(self) -> None:
        """The lock fences appliers, not what a killed one has set going; two runs side by side are no repetition."""
        deadline = time.monotonic() + _GONE_S
        with self._database.session(read=True) as session:
            while ids := [record["id"] for record in session.run(LEFTOVERS, {"tag": self._tag})]:
                if time.monotonic() > deadline:
                    raise Unavailable("Replica.StillRunning", f"an attempt before a crash still runs: {', '.join(ids)}")
                _logger.warning("ending what a killed applier left offset=%d transactions=%s", self._offset, ids)
                session.run(END, {"ids": ids}).consume()
                time.sleep(_POLL_S)
