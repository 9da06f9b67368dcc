"""What a caller gets for a command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    import dramatiq

    from replica.statement import Outcome
    from tasks.following import Applied, Follower

#: Seconds that `Receipt.wait` waits unless told otherwise.
WAIT_S = 10.0


class Receipt:
    """A command that Kafka has confirmed: it has a place in the log, and every replica will come to it."""

    def __init__(self, message: dramatiq.Message[Any], follower: Follower) -> None:
        self.message = message
        self._follower = follower

    @property
    def message_id(self) -> str:
        """The command's id."""
        return self.message.message_id

    def position(self) -> int:
        """The command's offset in the log.  Within `broker.batching` it is known when that ends.

        Raises:
          RuntimeError: it is not confirmed yet.
        """
        return int(self._delivery().offset)

    def _delivery(self) -> Any:
        delivery = getattr(self.message, "delivery", None)
        if delivery is None:
            raise RuntimeError("Kafka has not confirmed this command yet; leave the batching block first")
        return delivery

    def wait(self, *, applied: Applied = "any", timeout: float = WAIT_S) -> dict[str, Outcome]:
        """Wait until the command is applied by ``"any"`` replica, by ``"all"`` that are registered, or by so many.

        *timeout* in seconds.  Returns what each replica reported; of a command that was sent again under its id, the
        outcome's `duplicate_of` says where the one that was applied stands.

        Raises:
          CommandRejected: it changed nothing, on every replica, and why.
          ReplicasDisagree: replicas report different outcomes.
          WaitTimeout: says which replica is where.
        """
        if applied not in {"any", "all"} and (not isinstance(applied, int) or applied < 1):
            raise ValueError(f'applied is "any", "all" or a number of replicas, not {applied!r}')
        delivery = self._delivery()
        return self._follower.wait(delivery.offset, delivery.timestamp_ms, applied, timeout)

    def __repr__(self) -> str:
        delivery = getattr(self.message, "delivery", None)
        return f"<Receipt {self.message_id} at {delivery.offset if delivery else '(not confirmed)'}>"
