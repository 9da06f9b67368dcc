"""Commands of every kind at random, and what a log of them has to make: an oracle that knows no Cypher.  Pure.

Each command has a number of its own, its *uid*, somewhere in its record, so that the log says which commands came, and
in which order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from replica.conditions import NOT_MET
from replica.ids import DUPLICATE
from replica.statement import Statement


if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

ITEMS, ACCOUNTS, NAMES, BALANCE = 30, 5, 50, 100

#: How a command may end besides being applied.
FAILED, REPEATED, UNMET = "failed", "repeated", "unmet"

#: How often each kind comes.  After a change of the schema a server plans every text anew, so these are seldom.
KINDS = {
    "mark": 20,
    "stamp": 5,
    "merge": 20,
    "set": 10,
    "link": 12,
    "unlink": 4,
    "delete": 2,
    "delete alone": 3,
    "user": 4,
    "forget user": 2,
    "extra": 4,
    "forget extras": 1,
    "divide": 1.5,
    "touch": 0.2,
    "deposit": 5,
    "pay": 8,
    "transfer": 6,
    "order": 10,
    "broken order": 1,
    "index": 0.1,
    "drop index": 0.08,
    "unique": 0.1,
    "drop unique": 0.06,
    "pieces": 0.2,
    "foreign": 0.5,
}

TEXTS = {
    "mark": "CREATE (:Mark {uid: $uid})",
    "stamp": "CREATE (:Mark {uid: $uid, id: randomUUID(), at: datetime()})",
    "merge": (
        "MERGE (i:Item {k: $k}) ON CREATE SET i.n = 1, i.v = $uid ON MATCH SET i.n = i.n + 1, i.v = $uid"
        " CREATE (:Mark {uid: $uid})"
    ),
    "set": "MATCH (i:Item {k: $k}) SET i.v = $uid",
    "link": "MATCH (a:Item {k: $k}), (b:Item {k: $other}) CREATE (a)-[:LINK {uid: $uid}]->(b)",
    "unlink": "MATCH (:Item {k: $k})-[l:LINK]->(:Item) DELETE l",
    "delete": "MATCH (i:Item {k: $k}) DETACH DELETE i",
    "delete alone": "MATCH (i:Item {k: $k}) DELETE i",
    "user": "CREATE (:User {name: $k, uid: $uid})",
    "forget user": "MATCH (u:User {name: $k}) DELETE u",
    "extra": "CREATE (:Extra {k: $k, uid: $uid})",
    "forget extras": "MATCH (e:Extra) DELETE e",
    "divide": "CREATE (:Mark {uid: $uid / $zero})",
    "touch": "MATCH (n {k: $k}) SET n.t = $uid",
    "deposit": "MATCH (a:Account {id: $k}) SET a.balance = a.balance + $n",
    "pay": "MATCH (a:Account {id: $k}) SET a.balance = a.balance - $n",
    "order": "CREATE (:Order {number: $k, uid: $uid})",
    "broken order": "CREATE (:Order {number: $k, uid: $uid / $zero})",
    "index": "CREATE INDEX item_v FOR (i:Item) ON (i.v) // uid={uid}",
    "drop index": "DROP INDEX item_v // uid={uid}",
    "unique": "CREATE CONSTRAINT extra_k FOR (e:Extra) REQUIRE e.k IS UNIQUE // uid={uid}",
    "drop unique": "DROP CONSTRAINT extra_k // uid={uid}",
    "pieces": "UNWIND range(1, 30) AS p CALL (p) { MERGE (x:P {p: p}) SET x.uid = $uid } IN TRANSACTIONS OF 9 ROWS",
}

ENOUGH = "MATCH (a:Account {id: $k}) WHERE a.balance >= $n RETURN true"

SETUP = (
    "CREATE CONSTRAINT user_name FOR (u:User) REQUIRE u.name IS UNIQUE",
    f"UNWIND range(0, {ACCOUNTS - 1}) AS id CREATE (:Account {{id: id, balance: {BALANCE}}})",
)

#: What `World.facts` says, asked of a graph.
QUESTIONS = {
    "marks": "MATCH (m:Mark) RETURN m.uid AS uid ORDER BY uid",
    "items": "MATCH (i:Item) RETURN i.k AS k, i.n, i.v, i.t ORDER BY k",
    "links": "MATCH (a:Item)-[l:LINK]->(b:Item) RETURN l.uid AS uid, a.k, b.k ORDER BY uid",
    "users": "MATCH (u:User) RETURN u.name AS name, u.uid ORDER BY name",
    "extras": "MATCH (e:Extra) RETURN e.uid AS uid, e.k, e.t ORDER BY uid",
    "accounts": "MATCH (a:Account) RETURN a.id AS id, a.balance ORDER BY id",
    "orders": "MATCH (o:Order) RETURN o.uid AS uid, o.number ORDER BY uid",
    "pieces": "MATCH (p:P) RETURN p.p AS p, p.uid ORDER BY p",
    "schema": "SHOW INDEXES YIELD name WHERE name IN ['item_v', 'extra_k'] RETURN name ORDER BY name",
}


@dataclass(frozen=True)
class Intent:
    """One command, before it is sent."""

    uid: int
    kind: str
    k: int
    other: int
    n: int

    def arguments(self) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """Text or statements, parameters, and options, as `run_command.send_with_options` takes them."""
        if self.kind == "transfer":
            return self._transfer(), {}, {}
        text = TEXTS[self.kind]
        if "{uid}" in text:
            return text.replace("{uid}", str(self.uid)), {}, {}
        parameters = {"uid": self.uid, "k": self.k, "other": self.other, "n": self.n, "zero": 0}
        return text, parameters, self._options()

    def _transfer(self) -> list[Statement]:
        """From one account to another; where they are one, the last statement fails."""
        parts = [(TEXTS["pay"], self.k, self.n), (TEXTS["deposit"], self.other, self.n)]
        statements = [Statement(text, {"uid": self.uid, "k": k, "n": n}) for text, k, n in parts]
        return [*statements, Statement("RETURN 1 / ($k - $other)", {"k": self.k, "other": self.other})]

    def _options(self) -> dict[str, Any]:
        if self.kind == "pay":
            return {"when": ENOUGH}
        if self.kind == "pieces":
            return {"idempotent": True}
        return {"id": f"order-{self.k}"} if "order" in self.kind else {}


def draw(random_: random.Random, uid: int, count: int) -> Intent:
    """The next command; *count* says how many its sender has drawn, since numbers of orders rise with that."""
    kind = random_.choices(list(KINDS), list(KINDS.values()))[0]
    most = {"user": NAMES, "forget user": NAMES, "deposit": ACCOUNTS, "pay": ACCOUNTS, "transfer": ACCOUNTS}
    k = count // 4 + random_.randrange(8) if "order" in kind else random_.randrange(most.get(kind, ITEMS))
    other = random_.randrange(ACCOUNTS if kind == "transfer" else ITEMS)
    return Intent(uid, kind, k, other, random_.randrange(1, 60))


@dataclass
class World:
    """What the commands so far have made."""

    marks: set[int] = field(default_factory=set)
    items: dict[int, list[int | None]] = field(default_factory=dict)  # n, v, t
    links: dict[int, tuple[int, int]] = field(default_factory=dict)
    users: dict[int, int] = field(default_factory=dict)
    extras: dict[int, list[int | None]] = field(default_factory=dict)  # k, t
    accounts: dict[int, int] = field(default_factory=lambda: dict.fromkeys(range(ACCOUNTS), BALANCE))
    orders: dict[int, int] = field(default_factory=dict)
    used: set[int] = field(default_factory=set)
    pieces: int | None = None
    index: bool = False
    unique: bool = False

    def apply(self, intent: Intent) -> str | None:
        """How the command ends; None where it is applied."""
        act = getattr(self, "_" + intent.kind.replace(" ", "_"))
        ended: str | None = act(intent)
        return ended

    def facts(self) -> dict[str, list[tuple[Any, ...]]]:
        """All of it, in the order of `QUESTIONS`."""
        names = [name for name, there in (("extra_k", self.unique), ("item_v", self.index)) if there]
        return {
            "marks": [(uid,) for uid in sorted(self.marks)],
            "items": [(k, *values) for k, values in sorted(self.items.items())],
            "links": [(uid, *ends) for uid, ends in sorted(self.links.items())],
            "users": sorted(self.users.items()),
            "extras": [(uid, *values) for uid, values in sorted(self.extras.items())],
            "accounts": sorted(self.accounts.items()),
            "orders": sorted(self.orders.items()),
            "pieces": [] if self.pieces is None else [(p, self.pieces) for p in range(1, 31)],
            "schema": [(name,) for name in names],
        }

    def _mark(self, one: Intent) -> None:
        self.marks.add(one.uid)

    _stamp = _mark

    def _merge(self, one: Intent) -> None:
        item = self.items.setdefault(one.k, [0, None, None])
        item[:2] = [(item[0] or 0) + 1, one.uid]
        self.marks.add(one.uid)

    def _set(self, one: Intent) -> None:
        if one.k in self.items:
            self.items[one.k][1] = one.uid

    def _link(self, one: Intent) -> None:
        if {one.k, one.other} <= self.items.keys():
            self.links[one.uid] = one.k, one.other

    def _unlink(self, one: Intent) -> None:
        self.links = {uid: ends for uid, ends in self.links.items() if ends[0] != one.k}

    def _delete(self, one: Intent) -> None:
        self.items.pop(one.k, None)
        self.links = {uid: ends for uid, ends in self.links.items() if one.k not in ends}

    def _delete_alone(self, one: Intent) -> str | None:
        if any(one.k in ends for ends in self.links.values()):
            return FAILED
        self.items.pop(one.k, None)
        return None

    def _user(self, one: Intent) -> str | None:
        if one.k in self.users:
            return FAILED
        self.users[one.k] = one.uid
        return None

    def _forget_user(self, one: Intent) -> None:
        self.users.pop(one.k, None)

    def _extra(self, one: Intent) -> str | None:
        if self.unique and any(values[0] == one.k for values in self.extras.values()):
            return FAILED
        self.extras[one.uid] = [one.k, None]
        return None

    def _forget_extras(self, one: Intent) -> None:
        self.extras.clear()

    def _divide(self, one: Intent) -> str:
        return FAILED

    _foreign = _divide

    def _touch(self, one: Intent) -> None:
        if one.k in self.items:
            self.items[one.k][2] = one.uid
        for values in self.extras.values():
            if values[0] == one.k:
                values[1] = one.uid

    def _deposit(self, one: Intent) -> None:
        self.accounts[one.k] += one.n

    def _pay(self, one: Intent) -> str | None:
        if self.accounts[one.k] < one.n:
            return UNMET
        self.accounts[one.k] -= one.n
        return None

    def _transfer(self, one: Intent) -> str | None:
        if one.k == one.other:
            return FAILED
        self.accounts[one.k] -= one.n
        self.accounts[one.other] += one.n
        return None

    def _order(self, one: Intent) -> str | None:
        if one.k in self.used:
            return REPEATED
        self.used.add(one.k)
        self.orders[one.uid] = one.k
        return None

    def _broken_order(self, one: Intent) -> str:
        return REPEATED if one.k in self.used else FAILED

    def _index(self, one: Intent) -> str | None:
        ended = FAILED if self.index else None
        self.index = True
        return ended

    def _drop_index(self, one: Intent) -> str | None:
        ended = None if self.index else FAILED
        self.index = False
        return ended

    def _unique(self, one: Intent) -> str | None:
        keys = [values[0] for values in self.extras.values()]
        if self.unique or len(set(keys)) < len(keys):
            return FAILED
        self.unique = True
        return None

    def _drop_unique(self, one: Intent) -> str | None:
        ended = None if self.unique else FAILED
        self.unique = False
        return ended

    def _pieces(self, one: Intent) -> None:
        self.pieces = one.uid


def ended(code: str) -> str:
    """The ending that a replica's code stands for."""
    return {DUPLICATE: REPEATED, NOT_MET: UNMET}.get(code, FAILED)


def replayed(log: Mapping[int, Intent]) -> tuple[World, dict[int, str]]:
    """What the commands make, in the order of their offsets; and how those ended that were not applied."""
    world, ends = World(), {}
    for offset, intent in sorted(log.items()):
        if (end := world.apply(intent)) is not None:
            ends[offset] = end
    return world, ends
