from __future__ import annotations

import uuid
from random import Random
from typing import Any, Final

import pytest
from msgspec.structs import replace
from neo4j.time import Date, DateTime, Time

from replica import cypher, plan, values
from replica.determinism import check, freeze
from replica.errors import NotDeterministic
from replica.rules import FUNCTIONS, PREFIXES, PROCEDURES, RULES, Verdict
from replica.statement import Command, Statement
from tests.freezing import NOW, frozen


def refused(text: str, parameters: dict[str, Any] | None = None) -> NotDeterministic:
    """What `freeze` raises; `check` must see the same."""
    with pytest.raises(NotDeterministic) as caught:
        frozen(text, parameters)
    with pytest.raises(NotDeterministic) as checked:
        check(Statement(text, parameters or {}))
    assert checked.value.rule == caught.value.rule
    return caught.value


FROZEN: Final = {
    "timestamp()": ("CREATE (:X {t: timestamp()})", "CREATE (:X {t: $__now_timestamp})"),
    "date()": ("MATCH (n:X) SET n.d = date()", "MATCH (n:X) SET n.d = $__now_date"),
    "time()": ("CREATE (:X {t: time()})", "CREATE (:X {t: $__now_time})"),
    "localtime()": ("CREATE (:X {t: localtime()})", "CREATE (:X {t: $__now_localtime})"),
    "datetime()": (
        "UNWIND $rows AS r CREATE (:X {t: datetime()})",
        "UNWIND $rows AS r CREATE (:X {t: $__now_datetime})",
    ),
    "localdatetime()": ("CREATE (:X {t: localdatetime()})", "CREATE (:X {t: $__now_localdatetime})"),
    "statement clock": ("CREATE (:X {t: datetime.statement()})", "CREATE (:X {t: $__now_datetime})"),
    "transaction clock": ("CREATE (:X {t: date.transaction()})", "CREATE (:X {t: $__now_date})"),
    "live clock, once": ("CREATE (:X {t: time.realtime()})", "CREATE (:X {t: $__now_time})"),
    "zone in a map": (
        "CREATE (:X {t: datetime({timezone: 'Europe/Paris'})})",
        "CREATE (:X {t: datetime({datetime: $__now_datetime, timezone: 'Europe/Paris'})})",
    ),
    "zone in a map, other type and case": (
        "CREATE (:X {t: DATE({TimeZone: $z})})",
        "CREATE (:X {t: date(datetime({datetime: $__now_datetime, timezone: $z}))})",
    ),
    "zone as an argument": (
        "CREATE (:X {t: localtime.statement('+02:00')})",
        "CREATE (:X {t: localtime(datetime({datetime: $__now_datetime, timezone: '+02:00'}))})",
    ),
    "truncate without input": ("RETURN date.truncate('month')", "RETURN date.truncate('month', $__now_date)"),
    "truncate of a row's unit": (
        "MATCH (n:X) SET n.t = datetime.truncate(n.unit)",
        "MATCH (n:X) SET n.t = datetime.truncate(n.unit, $__now_datetime)",
    ),
    "rand()": ("CREATE (:X {r: rand(), s: rand()})", "CREATE (:X {r: $__rand_1, s: $__rand_2})"),
    "randomUUID()": ("CREATE (:X {u: randomUUID()})", "CREATE (:X {u: $__uuid_1})"),
    "uuid()": ("CREATE (:X {u: uuid()})", "CREATE (:X {u: uuid($__uuid_1)})"),
    "random in MERGE": ("MERGE (n:X {u: randomUUID()})", "MERGE (n:X {u: $__uuid_1})"),
    "random when MERGE creates": (
        "MERGE (n:X {k: $z}) ON MATCH SET n.a = 1 ON CREATE SET n.u = randomUUID() RETURN n",
        "MERGE (n:X {k: $z}) ON MATCH SET n.a = 1 ON CREATE SET n.u = $__uuid_1 RETURN n",
    ),
    "spaces, comments and case": (
        "RETURN TimeStamp /* ( */ ( // )\n )AS x",
        "RETURN $__now_timestamp /* ( */  // )\n AS x",
    ),
    "words that touch": ("RETURN timestamp()AS x,1", "RETURN $__now_timestamp AS x,1"),
    "quoted function": ("RETURN `date` . `Statement`() AS x", "RETURN $__now_date   AS x"),
    "quoted function that touches": ("RETURN`timestamp`()", "RETURN $__now_timestamp"),
    "a slice's end": ("RETURN [1,2][0..rand()]", "RETURN [1,2][0..$__rand_1]"),
    "an index without a name": (
        "CREATE INDEX FOR (n:X) ON (n.a)",
        "CREATE INDEX auto_index_dc535c1e94de FOR (n:X) ON (n.a)",
    ),
    "a constraint without a name": (
        "create CONSTRAINT /* none */ IF NOT EXISTS FOR (n:X) REQUIRE n.a IS UNIQUE;",
        "create CONSTRAINT /* none */ auto_constraint_08a94ffa194d IF NOT EXISTS FOR (n:X) REQUIRE n.a IS UNIQUE;",
    ),
    "a full-text index without a name": (
        "CREATE FULLTEXT INDEX FOR (n:X) ON EACH [n.a]",
        "CREATE FULLTEXT INDEX auto_index_db5880b99631 FOR (n:X) ON EACH [n.a]",
    ),
    "behind a prefix": ("CYPHER 25 planner=cost RETURN date()", "CYPHER 25 planner=cost RETURN $__now_date"),
}


@pytest.mark.parametrize(("text", "expected"), FROZEN.values(), ids=FROZEN.keys())
def test_what_can_be_frozen_exactly_becomes_a_parameter(text: str, expected: str) -> None:
    """Clock and randomness are taken at the sender; the rest of the text stays as it was, and a replica accepts it."""
    given_parameters = {"z": "Europe/Paris", "rows": [1]}
    with pytest.raises(NotDeterministic):
        check(Statement(text, given_parameters))
    result = frozen(text, given_parameters)
    assert result.statement.text.split() == expected.split()
    assert cypher.parameter_names(result.statement.text) <= result.statement.parameters.keys()
    assert {rule.verdict for rule in result.rules} & {Verdict.FREEZE}
    assert cypher.wrappable(result.statement.text) is not (expected.startswith("CYPHER") or " auto_" in expected)
    check(result.statement)


#: The rule, then texts that break it.
REFUSED: Final[dict[str, tuple[str, ...]]] = {
    "random-rows": (
        "UNWIND range(1, 10) AS i CREATE (:X {u: randomUUID()})",
        "MATCH (n) SET n.r = rand()",
        "FOREACH (i IN [1, 2] | CREATE (:X {r: rand()}))",
        "CYPHER 25 FOR i IN [1, 2] CREATE (:X {r: rand()})",
        "CALL () { CREATE (:X {r: rand()}) }",
        "CREATE (:X {l: [i IN [1, 2] | rand()]})",
        "CREATE (:X {l: reduce(a = 0, i IN [1, 2] | a + rand())})",
        "CREATE (:X {l: any(i IN [1, 2] WHERE rand() < 0.5)})",
        "MERGE (n:X {k: 1}) SET n.u = randomUUID()",
        "MERGE (n:X {k: 1}) ON MATCH SET n.u = randomUUID()",
        "MERGE (n:X {k: 1}) MERGE (m:X) ON CREATE SET m.u = randomUUID()",
        "WITH 1 AS on MATCH set = (a)-->(b) CREATE (:X {u: uuid()})",
        "RETURN 1.MATCH (n) RETURN rand()",
    ),
    "realtime-rows": ("MATCH (n) SET n.t = datetime.realtime()", "UNWIND [1] AS i RETURN date.realtime('Z')"),
    "clock-hidden": (
        "UNWIND ['Z'] AS z RETURN datetime({timezone: z})",
        "RETURN date.statement('Europe' + '/Paris')",
        "RETURN datetime('DEFAULT_TEMPORAL_ARGUMENT')",
        "WITH {timezone: 'Z'} AS m RETURN time(m)",
        "MATCH (n) WITH properties(n) AS m CREATE (:X {t: date(m)})",
        "MATCH (n) WITH n {.timezone} AS m CREATE (:X {t: date(m)})",
        "MATCH (n) WITH n {.*} AS m CREATE (:X {t: date(m)})",
    ),
    "ids": (
        "MATCH (n) WHERE id(n) = 1 SET n.x = 1",
        "MATCH (n) WHERE elementId(n) = $e DELETE n",
        "MATCH (n) RETURN 1 / ID ( n )",
        "RETURN db.nameFromElementId('x')",
        "RETURN graph.byElementId('x')",
        "CALL apoc.nodes.get([1]) YIELD node RETURN node",
        "RETURN apoc.node.id(1)",
        "RETURN apoc.rel.id(1)",
    ),
    "unordered-limit": (
        "MATCH (n:X) WITH n LIMIT 1 DELETE n",
        "MATCH (n:X) WITH n SKIP $s SET n.x = 1",
        "MATCH (n:X) WITH n OFFSET 1 SET n.x = 1",
        "MATCH (n:X) WITH n ORDER BY n.k WITH n LIMIT 1 DELETE n",
        "CALL () { MATCH (n:X) RETURN n LIMIT 1 } SET n.x = 1",
        "CREATE (:L {l: COLLECT { MATCH (n:X) RETURN n.k LIMIT 3 }})",
        "MATCH (n:X) WITH n /* ORDER BY n.k */ LIMIT 1 DELETE n",
        "MATCH (n:X) WITH n.order AS by LIMIT 1 DELETE n",
        "MATCH (n:X) WITH n, n.k AS ends ORDER BY ends WITH n LIMIT 1 DELETE n",
    ),
    "unordered-list": (
        "MATCH (n:X) WITH collect(n)[0] AS f SET f.x = 1",
        "MATCH (n:X) WITH collect(n)[..2] AS f FOREACH (x IN f | SET x.y = 1)",
        "MATCH (n:X) WITH head(collect(n)) AS f SET f.x = 1",
        "MATCH (n:X) WITH last( collect (n.k) ) AS f CREATE (:X {k: f})",
        "MATCH (n:X) WITH (collect(n))[0] AS f SET f.x = 1",
        "MATCH (n:X) WITH collect(n) AS xs SET xs[0].x = 1",
        "MATCH (n:X) WITH collect(n) AS xs WITH xs AS ys CREATE (:X {k: last(ys)})",
        "MATCH (n:X) WITH {l: collect(n.k)} AS m CREATE (:X {k: m.l[0]})",
        "MATCH (n:X) WITH reduce(s = '', k IN collect(n.k) | s + k) AS s CREATE (:X {s: s})",
        "MATCH (n:X) WITH coalesce(CASE WHEN 'a' STARTS WITH 'a' THEN collect(n) END, []) AS xs SET xs[0].x = 1",
        "MATCH (n:X) WITH collect(n) + CASE WHEN 'a' STARTS WITH 'a' THEN [] END AS xs SET xs[0].x = 1",
        "MATCH (n:X) WITH collect(n) AS xs FOREACH (ys IN [xs] | SET ys[0].x = 1)",
        "MATCH (n:X) WITH collect(n.k) AS xs UNWIND [coalesce(xs, [])] AS ys CREATE (:X {k: ys[0]})",
        "MATCH (n:X) CREATE (:L {f: [(n)-->(m) | m.k][0]})",
        "CREATE (:L {f: head(COLLECT { MATCH (n:X) RETURN n.k })})",
        "CYPHER 25 MATCH (n:X) WITH collect(n) AS a LET b = a RETURN b[0]",
    ),
    "unordered-names": (
        "MATCH (n) SET n.first = labels(n)[0]",
        "MATCH (n) SET n.first = head(keys(n))",
        "MATCH (n) SET n.l = labels(n)",
        "MATCH (n) WITH labels(n) AS l SET n.l = l[0]",
        "MATCH (n) SET n.l = [l IN labels(n) WHERE l <> 'X']",
        "CREATE (:X {k: keys($m)[0]})",
    ),
    "function": ("RETURN my.function()", "RETURN unknown(1)", "RETURN n.timestamp()", "RETURN apoc.text.join([], '')"),
    "function-outside": (
        "RETURN genai.vector.encode('x', 'y', {})",
        "RETURN ai.text.completion('x')",
        "CALL apoc.load.json('x') YIELD value RETURN value",
        "CALL apoc.import.csv([], [], {})",
        "CALL apoc.export.csv.all('x', {})",
        "CREATE (:X {u: apoc.create.uuid()})",
        "RETURN apoc.text.random(3)",
        "RETURN apoc.coll.shuffle([1])",
        "RETURN apoc.coll.randomItem([1])",
        "RETURN apoc.date.currentTimestamp()",
        "CALL apoc.util.sleep(1)",
    ),
    "procedure": ("CALL my.procedure()", "CALL my . `procedure`", "CALL apoc.create.node(['X'], {})"),
    "procedure-hidden": (
        "CALL apoc.periodic.commit('x', {})",
        "CALL apoc.trigger.install('x')",
        "CALL apoc.cypher.runMany('x', {})",
        "CALL apoc.cypher.doIt('CREATE (:X)', {}) YIELD value RETURN value",
        "CALL apoc.do.when(true, 'x', 'y', {})",
        "CALL apoc.lock.nodes([])",
        "CALL apoc.atomic.add(null, 'x', 1)",
    ),
    "local-facts": (
        "SHOW INDEXES",
        "CALL dbms.listConfig()",
        "CALL db.info() YIELD id CREATE (:X {id: id})",
        "CALL db.stats.retrieve('x')",
        "CALL db.labels() YIELD label CREATE (:X {l: label})",
        "CALL db.awaitIndexes()",
        "CALL db.resampleIndex('x')",
        "CALL db.prepareForReplanning",
        "CALL db.checkpoint()",
        "CALL db.clearQueryCaches()",
        "CALL db.compact()",
        "CALL tx.setMetaData({})",
        "CALL apoc.log.info('x')",
    ),
    "approximate-index": (
        "CALL db.index.fulltext.queryNodes('i', 'x') YIELD node SET node.x = 1",
        "CALL db.index.vector.queryNodes('i', 1, $v) YIELD node SET node.x = 1",
        "MATCH (n) SEARCH n IN (VECTOR INDEX i FOR $v LIMIT 3) SET n.x = 1",
    ),
    "definition": ("CYPHER 25 DEFINE FUNCTION date() { RETURN 1 } RETURN date()",),
    "load-csv": (
        "LOAD CSV FROM 'file:///x' AS r CREATE (:X)",
        "CYPHER 5 LOAD /* */ CSV FROM 'x' AS r RETURN r",
        "RETURN file()",
        "RETURN linenumber()",
    ),
    "own-transactions": (
        "UNWIND [1] AS x CALL (x) { CREATE (:X) } IN TRANSACTIONS",
        "UNWIND [1] AS x CALL (x) { CREATE (:X) } IN 2 CONCURRENT TRANSACTIONS",
        "USING PERIODIC COMMIT 10 MATCH (n) SET n.x = 1",
    ),
    "other-graph": (
        "USE neo4j CREATE (:X)",
        "CYPHER 25 USE x CREATE (:X)",
        "CALL () { USE x MATCH (n) RETURN n } RETURN n",
    ),
    "explain": ("EXPLAIN CREATE (:X)", "CYPHER 25 PROFILE CREATE (:X)"),
    "administration": (
        "CREATE USER u SET PASSWORD 'x'",
        "CYPHER 25 ALTER USER u SET PASSWORD 'x'",
        "TERMINATE TRANSACTION 'x'",
        "START DATABASE x",
        "ALTER CURRENT GRAPH TYPE SET {}",
    ),
    "unnamed-schema": (
        "CREATE INDEX $i FOR (n:X) ON (n.a)",
        "CREATE INDEX ` ` FOR (n:X) ON (n.a)",
        "DROP CONSTRAINT",
    ),
    "enterprise-constraint": (
        "CREATE CONSTRAINT c FOR (n:X) REQUIRE n.a IS NODE KEY",
        "CREATE CONSTRAINT c FOR (n:X) REQUIRE n.a IS NOT NULL",
        "CREATE CONSTRAINT c FOR (n:X) REQUIRE n.a IS :: STRING",
        "CREATE CONSTRAINT c FOR (n:X) REQUIRE n.a IS TYPED STRING",
    ),
    "prefixed-schema": ("CYPHER 25 CREATE INDEX i FOR (n:X) ON (n.a)",),
    "reserved-label": ("MATCH (n:_KafkaPosition) DELETE n", "RETURN '_KafkaPosition'"),
    "reserved-parameter": (
        "RETURN $__rows",
        "RETURN $`__now_datetime`",
        "RETURN $__now_datetime, timestamp()",
        "RETURN $__rand_0",
    ),
    "unreadable": (
        "",
        " // nothing",
        ";",
        "RETURN 'open",
        "RETURN 1 /* open",
        "RETURN `open",
        "RETURN (1",
        "RETURN 1]",
        "RETURN 1; RETURN 2",
        "RETURN $ x",
        "RETURN 1rand()",
        "RETURN r\u200band()",
        "RETURN rand\x85()",
        "RETURN time\u017ftamp()",
        "RETURN \ud800",
        "RETURN timestamp(1)",
        "RETURN rand(1)",
        "RETURN date.truncate()",
        "RETURN date(1, 2)",
        "CYPHER 25",
    ),
    "escape": (
        "RETURN r\\u0061nd()",
        "RETURN 'a\\u0027'",
        "RETURN 'a\\uuu005c'",
        "RETURN 1 // \\u000a rand()",
        "RETURN `a\\u0060`",
        "RETURN 'a\\u00'",
    ),
    "too-complex": ("RETURN " + "(" * 101 + "1" + ")" * 101, "RETURN 1" + "+1" * 1001),
}


@pytest.mark.parametrize(
    ("rule", "text"),
    [pytest.param(rule, text, id=f"{rule}-{i}") for rule, texts in REFUSED.items() for i, text in enumerate(texts)],
)
def test_what_differs_between_replicas_is_refused_with_a_way_to_write_it(rule: str, text: str) -> None:
    """At the sender and again at the replica; the message names what differs and what to write instead."""
    error = refused(text, {"e": "4:x:1", "s": 1, "v": [1.0], "m": {"a": 1}})
    assert error.rule == rule
    assert RULES[rule].verdict is Verdict.REFUSE
    assert error.reason.endswith(RULES[rule].reason)
    assert error.rewrite
    assert error.rewrite in str(error)
    assert not error.retryable


#: The rule, then texts to which it applies without harm.
TOLD: Final[dict[str, tuple[str, ...]]] = {
    "limit-in-result": ("MATCH (n:X) RETURN n LIMIT 1", "MATCH (n:X) SET n.x = 1 RETURN n SKIP 1"),
    "ties": (
        "MATCH (n:X) WITH n ORDER BY n.k LIMIT 1 DELETE n",
        "MATCH (n:X) WITH n ORDER BY n.k SKIP 2 LIMIT 1 DELETE n",
        "CYPHER 25 MATCH (n:X) ORDER BY n.k LIMIT 1 DELETE n",
    ),
    "list-order": (
        "MATCH (n:X) WITH collect(n.k) AS ks CREATE (:L {ks: ks})",
        "MATCH (n:X) SET n.ks = [(n)-->(m) | m.k]",
        "CREATE (:L {ks: COLLECT { MATCH (n:X) RETURN n.k }})",
    ),
    "float-sum": ("MATCH (n:X) WITH sum(n.f) AS s CREATE (:S {s: s})", "MATCH (n) WITH stDevP(n.f) AS s SET n.s = s"),
    "shortest-path": (
        "MATCH p = shortestPath((a:X)-[*]-(b:Y)) SET a.d = length(p)",
        "MATCH p = SHORTEST 1 (a:X)-[:R]-+(b:Y) SET a.d = 1",
        "MATCH ANY (a:X)-[:R]-+(b:Y) SET a.d = 1",
    ),
    "last-row-wins": ("MATCH (a:X)-->(b:Y) SET a.x = b.y", "MATCH (a) MATCH (b) SET a += b.z"),
    "index-hint": (
        "MATCH (n:X) USING INDEX n:X(a) WHERE n.a = 1 SET n.b = 1",
        "MATCH (n:X) USING SCAN n:X SET n.b = 1",
    ),
    "time-zone": ("CREATE (:X {t: datetime('2024-01-01T00:00')})", "CREATE (:X {t: time({hour: 12})})"),
}


@pytest.mark.parametrize(
    ("rule", "text"),
    [pytest.param(rule, text, id=f"{rule}-{i}") for rule, texts in TOLD.items() for i, text in enumerate(texts)],
)
def test_what_depends_on_the_data_or_the_configuration_passes_and_is_told(rule: str, text: str) -> None:
    """The statement is left as it is; a person may want to know."""
    result = frozen(text)
    assert result.statement == Statement(text)
    assert rule in {found.name for found in result.rules}
    assert RULES[rule].severity in {"warn", "configuration"}
    check(result.statement)


FINE: Final = (
    "MATCH (n:X) WITH n ORDER BY n.k WITH collect(n.k) AS ks CREATE (:L {ks: ks, first: ks[0], last: last(ks)})",
    "CREATE (:L {ks: COLLECT { MATCH (n:X) RETURN n.k ORDER BY n.k }})",
    "MATCH (n:X) WITH collect(n) AS xs CREATE (:L {c: [size(xs)], e: [x IN [1] WHERE any(y IN xs WHERE y.k = x)]})",
    "CREATE (:L {ls: COLLECT { UNWIND labels($n) AS l RETURN l ORDER BY l }})",
    "MATCH (n) WHERE 'A' IN labels(n) AND size(labels(n)) > 1 AND any(l IN labels(n) WHERE l = 'B') SET n.x = 1",
    "MATCH (n:X) RETURN labels(n)",
    "MATCH (n:X) WITH percentileCont(n.a, 0.5) AS p, count(n) AS c, min(n.a) AS m CREATE (:S {p: p, c: c, m: m})",
    "UNWIND $rows AS r MERGE (n:X {id: r.id}) SET n += r, n.at = datetime(r.at), n.on = date(r.on)",
    "FOREACH (i IN [1, 2] | CREATE (:X {i: i}))",
    "MERGE (n:X {k: 1}) ON CREATE SET n.a = 1 ON MATCH SET n.b = 2",
    "MATCH (n) DETACH DELETE n",
    "CREATE INDEX i IF NOT EXISTS FOR (n:X) ON (n.a)",
    "CREATE LOOKUP INDEX i FOR (n) ON EACH labels(n)",
    "CREATE FULLTEXT INDEX i FOR (n:X|Y) ON EACH [n.a, n.b]",
    "CREATE CONSTRAINT c FOR (n:X) REQUIRE (n.a, n.b) IS UNIQUE",
    "DROP CONSTRAINT c IF EXISTS",
    "CALL db.createLabel('X')",
    "CALL DB . createProperty('x')",
    "MATCH (n:X) CALL db.create.setNodeVectorProperty(n, 'v', [1.0]) RETURN n",
    "MATCH (n) CALL (n) { WITH n CREATE (:Y {of: n.k}) } RETURN count(*)",
    "CREATE (:X {u: uuid('f47ac10b-58cc-4372-a567-0e02b2c3d479')})",
    "CREATE (:X {t: datetime.truncate('day', $when), d: duration.between(date('2024-01-01'), $when)});",
    "CYPHER 25 MATCH (n:X) FILTER n.a = 1 LET b = n.a SET n.c = b",
    "MATCH (n:X) RETURN n.timestamp, n . date AS date, n.rand",
    "MATCH (rand:date)-[datetime:time]->(:`id`) RETURN rand, datetime",
    "CREATE (:X {date: 1, rand: 2, limit: 3, match: 4})",
    "CREATE (:X {s: 'rand()', t: \"timestamp()\", `date()`: 1}) // datetime()",
    "MATCH (n:X) WHERE n.limit > 3 AND n:Limit SET n.skip = 2, n.order = n.limit",
    "MATCH (n:X) WHERE (n.a) IN [1] AND exists((n)-->()) SET n.b = CASE WHEN (n.c) THEN (1) ELSE (2) END",
    "MATCH (n) WHERE n.name STARTS WITH 'a' SET n.x = 'caf\\u00e9'",
    "MATCH ((a)-[r:R]->(b)){1,3} SET a.x = 1",
    "MATCH (n:$(labels($m))) SET n.x = $list[0..2]",
)


@pytest.mark.parametrize("text", FINE)
def test_what_means_the_same_everywhere_comes_back_as_it_is(text: str) -> None:
    """Names like functions, functions in strings, and everything whose result does not depend on order."""
    parameters = {"rows": [{"id": 1, "at": "2024-01-01T00:00Z", "timezone": "Z"}], "n": 1, "m": 1, "list": [1, 2, 3]}
    result = frozen(text, parameters)
    assert result.statement == Statement(text, parameters)
    assert {rule.verdict for rule in result.rules} <= {Verdict.CONFIGURATION, Verdict.WARN}
    check(result.statement)


#: Declared idempotent: what is let through, and what all replicas could not cut into the same batches.
IN_ORDER: Final = (
    "UNWIND $rows AS r CALL (r) { MERGE (:X {k: r}) } IN TRANSACTIONS",
    "UNWIND range(1, 9) AS r CALL (r) { MERGE (n:X {k: r}) SET n.at = $t } IN TRANSACTIONS OF 3 ROWS ON ERROR FAIL",
    "MATCH (n:X) WITH n ORDER BY n.k CALL (n) { DETACH DELETE n } IN TRANSACTIONS OF 1000 ROWS",
    "CALL { MERGE (:X {k: 1}) } IN TRANSACTIONS",
)
NOT_IN_ORDER: Final = (
    "MATCH (n:X) CALL (n) { DETACH DELETE n } IN TRANSACTIONS OF 1000 ROWS",
    "MATCH (n:X) WITH n ORDER BY n.k WITH n CALL (n) { DETACH DELETE n } IN TRANSACTIONS",
    "UNWIND $rows AS r MATCH (n:X {k: r}) CALL (n) { SET n.x = 1 } IN TRANSACTIONS",
    "UNWIND $rows AS r CALL (r) { MERGE (:X {k: r}) } IN 2 CONCURRENT TRANSACTIONS",
    "UNWIND $rows AS r CALL (r) { MERGE (:X {k: r}) } IN TRANSACTIONS ON ERROR CONTINUE",
    "UNWIND $rows AS r CALL (r) { MERGE (:X {k: r}) } IN TRANSACTIONS OF 10 ROWS ON ERROR BREAK REPORT STATUS AS s",
    "UNWIND $rows AS r CALL (r) { MERGE (:X {k: r}) } IN TRANSACTIONS CREATE (:Done)",
    "UNWIND $rows AS r CALL (r) { MATCH (n) SET n.x = r } IN TRANSACTIONS",
    "CALL () { UNWIND $rows AS r CALL (r) { MERGE (:X {k: r}) } IN TRANSACTIONS }",
)


@pytest.mark.parametrize("text", IN_ORDER)
def test_a_text_that_commits_in_pieces_passes_only_when_it_is_declared_idempotent(text: str) -> None:
    """The declaration is kept through freezing; what is frozen inside is one value for all batches."""
    parameters = {"rows": [1, 2], "t": 1}
    assert refused(text, parameters).rule == "own-transactions"
    declared = Statement(text.replace("$t", "datetime()"), parameters, idempotent=True)
    made = freeze(declared, now=NOW, random=Random(1)).statement
    check(made)
    assert made.idempotent
    assert "datetime()" not in made.text
    assert plan.kind_of(Command(0, (made,))) is plan.Kind.PIECES
    assert plan.verdict(Command(0, (replace(made, idempotent=False),))) is not None
    assert plan.verdict(Command(0, (made, Statement("CREATE (:X)")))) is not None


@pytest.mark.parametrize("text", NOT_IN_ORDER)
def test_batches_that_replicas_may_cut_otherwise_are_refused_also_when_declared_idempotent(text: str) -> None:
    """What is kept of a failing one would differ; and none may run beside another, or touch the position's node."""
    with pytest.raises(NotDeterministic) as caught:
        freeze(Statement(text, {"rows": [1]}, idempotent=True), now=NOW, random=Random(1))
    assert caught.value.rule == "unordered-batches"
    assert "ORDER BY" in caught.value.rewrite


def test_what_is_drawn_for_each_row_stays_refused_in_batches() -> None:
    """Declared idempotent is not declared deterministic."""
    text = "UNWIND $rows AS r CALL (r) { CREATE (:X {u: randomUUID()}) } IN TRANSACTIONS"
    with pytest.raises(NotDeterministic, match="a value is drawn for each row"):
        freeze(Statement(text, {"rows": [1]}, idempotent=True), now=NOW, random=Random(1))
    periodic = Statement("USING PERIODIC COMMIT 10 MATCH (n:X) SET n.x = 1", idempotent=True)
    with pytest.raises(NotDeterministic, match="PERIODIC COMMIT"):
        check(periodic)


def test_every_rule_has_an_example() -> None:
    """The table and its examples are the same list."""
    assert RULES.keys() == {"clock", "random", "generated-name", "unordered-batches", "condition", *REFUSED, *TOLD}
    assert {rule for _, rule in PREFIXES} <= RULES.keys()
    assert all(name == name.lower() for name in FUNCTIONS | PROCEDURES)


def test_values_have_the_types_of_the_server_with_its_default_zone() -> None:
    """UTC as an offset, microseconds kept; and what the log gives back is what went in."""
    text = "RETURN date(), time(), localtime(), datetime(), localdatetime(), timestamp(), rand(), randomUUID()"
    got = frozen(text).statement.parameters
    assert got["__now_date"] == Date(2024, 2, 29)
    assert got["__now_datetime"].iso_format() == "2024-02-29T12:04:05.678901000+00:00"
    assert got["__now_localdatetime"] == DateTime(2024, 2, 29, 12, 4, 5, 678901000)
    assert got["__now_localtime"] == Time(12, 4, 5, 678901000)
    assert got["__now_time"].iso_format() == "12:04:05.678901000+00:00"
    assert got["__now_timestamp"] == 1709208245678
    assert 0 <= got["__rand_1"] < 1
    assert uuid.UUID(got["__uuid_2"]).version == 4
    assert values.encode(got["__now_datetime"]) == {
        "$type": "OffsetDateTime",
        "_value": "2024-02-29T12:04:05.678901+00:00",
    }
    check(Statement(frozen(text).statement.text, {k: values.decode(values.encode(v)) for k, v in got.items()}))


def test_statements_of_a_command_share_one_instant_and_draw_different_values() -> None:
    """One `now` for a command; the source of randomness goes on from statement to statement."""
    random = Random(7)
    first, second = (
        freeze(Statement(text), now=NOW, random=random).statement.parameters
        for text in ("CREATE (:X {t: datetime(), u: randomUUID()})", "CREATE (:Y {t: datetime(), u: randomUUID()})")
    )
    assert first["__now_datetime"] == second["__now_datetime"]
    assert first["__uuid_1"] != second["__uuid_1"]


def test_the_same_seed_and_instant_give_the_same_statement() -> None:
    """Nothing is read from the machine."""
    assert frozen("RETURN rand(), date()") == frozen("RETURN rand(), date()")


def test_a_clock_without_a_zone_is_no_instant() -> None:
    """A naive time means another instant on each machine."""
    with pytest.raises(ValueError, match="time zone"):
        freeze(Statement("RETURN 1"), now=NOW.replace(tzinfo=None), random=Random(1))


@pytest.mark.parametrize(
    ("text", "parameters", "rule"),
    [
        ("CREATE (:X {t: datetime($t)})", {"t": {"TimeZone": "Z"}}, "clock-hidden"),
        ("CREATE (:X {t: datetime($t)})", {"t": "DEFAULT_TEMPORAL_ARGUMENT"}, "clock-hidden"),
        ("UNWIND $rows AS r CREATE (:X {t: date(r.t)})", {"rows": [{"t": {"timezone": "Z"}}]}, "clock-hidden"),
        ("RETURN date({timezone: $z})", {"z": 1}, "clock-hidden"),
        ("RETURN date({timezone: $z})", {}, "clock-hidden"),
        ("RETURN 1", {"__now_datetime": 1}, "reserved-parameter"),
        ("RETURN $__now_datetime", {"__now_datetime": 1}, "reserved-parameter"),
        ("RETURN $__now_timestamp", {"__now_timestamp": True}, "reserved-parameter"),
        ("RETURN __now_date, 1", {"__now_date": 1}, "reserved-parameter"),
    ],
)
def test_values_are_judged_where_they_decide(text: str, parameters: dict[str, Any], rule: str) -> None:
    """A text may be fine for one set of parameters and not for another."""
    assert refused(text, parameters).rule == rule


def test_a_string_in_a_place_where_no_clock_is_read_may_be_anything() -> None:
    """Only what can reach a temporal function is looked at."""
    frozen("CREATE (:X {s: $s, m: datetime($t)})", {"s": "DEFAULT_TEMPORAL_ARGUMENT", "t": "2024-01-01T00:00Z"})
    frozen("CREATE (:X {s: 'DEFAULT_TEMPORAL_ARGUMENT'})")
