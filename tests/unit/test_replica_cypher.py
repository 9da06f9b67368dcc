from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replica import cypher
from replica.footprint import only_creates, sees_any_node


#: Text that is dense in what a tokenizer gets wrong.
CYPHERISH = st.lists(
    st.one_of(
        st.sampled_from(
            ["'", '"', "`", "\\", "//", "/*", "*/", "\n", "$a", "$`b c`", "(", ")", "{", "}", "[", "]", ";", "\\u0027"]
        ),
        st.sampled_from(
            [" MATCH ", " CREATE ", " DELETE ", " DETACH ", " CALL ", "IN", "INDEX", ":", ".", ",", "-", ">"]
        ),
        st.text(max_size=4),
    ),
    max_size=30,
).map("".join)


@given(CYPHERISH)
def test_tokens_joined_give_the_text_back(text: str) -> None:
    """Rewriting touches nothing but what it means to."""
    assert "".join(token.text for token in cypher.tokens(text)) == text


@given(CYPHERISH)
def test_no_text_crashes_an_analysis(text: str) -> None:
    """A command of any text ends in a verdict, never in an exception of ours."""
    cypher.analyse(text)
    cypher.schema_name("CREATE INDEX " + text, {})
    cypher.parameters_to_row(text, "__row")
    cypher.parameters_to_columns(text, "__c", sorted(cypher.parameter_names(text)), "__row")


@given(CYPHERISH)
def test_what_is_wrappable_cannot_leave_its_brackets(text: str) -> None:
    """Inside `{ ... }` a wrappable text closes nothing that it did not open, and swallows nothing after it."""
    if cypher.wrappable(text):
        wrapped = cypher.significant("CALL () {\n" + cypher.body(text) + "} RETURN 1 AS end")
        assert cypher.is_balanced(wrapped)
        assert [token.text for token in wrapped[-5:]] == ["}", "RETURN", "1", "AS", "end"]


@pytest.mark.parametrize(
    "text",
    [
        "MATCH (n) SET n.x=1 } CALL () { CREATE (:Y)",
        "CREATE (:X {s: 'unterminated})",
        "CREATE (:X) /* open",
        "CREATE (:X {s: '\\u0027})'})",
        "CREATE (:X); CREATE (:Y)",
        "EXPLAIN CREATE (:X)",
        "profile create (:X)",
        "CYPHER 25 CREATE (:X)",
        "USE neo4j CREATE (:X)",
        "/* c */ SHOW INDEXES",
        "LOAD /* c */ CSV FROM 'file:///x' AS r CREATE (:X)",
        "UNWIND [1] AS x CALL (x) { CREATE (:X) } IN TRANSACTIONS",
        "UNWIND [1] AS x CALL (x) { CREATE (:X) } IN 2 CONCURRENT TRANSACTIONS OF 10 ROWS",
        "CREATE (__row:X)",
        "CREATE (:X {a: $__rows})",
        "CREATE (:_KafkaPosition)",
        "CREATE INDEX i FOR (n:X) ON (n.a)",
        "",
        "// nothing",
    ],
)
def test_a_text_that_could_mean_something_else_inside_brackets_is_not_wrapped(text: str) -> None:
    """Each of these would change meaning, escape, or be refused as a subquery."""
    assert not cypher.wrappable(text)


@pytest.mark.parametrize(
    "text",
    [
        "CREATE (:X {s: $s})",
        "CREATE (:X);",
        "CREATE (:X) ; // done",
        "MERGE (u:User {name: 'it''s } fine'}) // }",
        'CREATE (:X {s: "a\\"}b"})',
        "MATCH (u:User) WHERE u.transactions IN [1] SET u.`show` = 1",
        "CREATE (:`weird } label`)",
    ],
)
def test_an_ordinary_text_is_wrappable(text: str) -> None:
    """Brackets and keywords inside strings, comments and quoted names do not count."""
    assert cypher.wrappable(text)


def test_parameters_become_fields_of_the_row() -> None:
    """Names keep their spelling, strings and comments stay, and words do not run together."""
    text = "RETURN$x, $`a ``b`, $0, '$x' /* $x */, $x.y"
    expected = "RETURN __row.`x`,  __row.`a ``b`,  __row.`0`, '$x' /* $x */,  __row.`x`.y"
    assert cypher.parameters_to_row(text, "__row") == expected


def test_parameters_become_what_their_columns_have_for_the_row() -> None:
    """In the order of the names that are given."""
    expected = "RETURN $__c[1][__row],  $__c[0][__row], '$x' /* $x */,  $__c[1][__row].y"
    assert (
        cypher.parameters_to_columns("RETURN$x, $`a ``b`, '$x' /* $x */, $x.y", "__c", ["a `b", "x"], "__row")
        == expected
    )


def test_the_body_loses_trailing_semicolons_and_ends_its_comment() -> None:
    """What follows the text in a rewritten statement is not swallowed."""
    assert cypher.body("CREATE (:X); ; // end") == "CREATE (:X)\n"
    assert cypher.body("CREATE (:X) // end") == "CREATE (:X) // end\n"
    assert cypher.body("CREATE (:X {s: ';'})") == "CREATE (:X {s: ';'})\n"


@pytest.mark.parametrize(
    ("text", "schema"),
    [
        ("CREATE INDEX i FOR (n:X) ON (n.a)", True),
        ("create /* c */ fulltext index i FOR (n:X) ON EACH [n.a]", True),
        ("DROP CONSTRAINT c IF EXISTS", True),
        ("CREATE (:Index)", False),
        ("CREATE (index:CONSTRAINT)", False),
        ("MATCH (n) DELETE n", False),
        ("'CREATE INDEX'", False),
    ],
)
def test_schema_commands_are_recognised(text: str, schema: bool) -> None:
    """By their first words, not by words somewhere."""
    assert cypher.is_schema(text) is schema


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("CREATE INDEX i FOR (n:X) ON (n.a)", "i"),
        ("CREATE INDEX `i ``x` IF NOT EXISTS FOR (n:X) ON (n.a)", "i `x"),
        ("CREATE INDEX $name FOR (n:X) ON (n.a)", "p"),
        ("CREATE INDEX for FOR (n:X) ON (n.a)", "for"),
        ("CREATE INDEX FOR (n:X) ON (n.a)", None),
        ("CREATE INDEX IF NOT EXISTS FOR (n:X) ON (n.a)", None),
        ("CREATE CONSTRAINT FOR (n:X) REQUIRE n.a IS UNIQUE", None),
        ("CREATE FULLTEXT INDEX FOR (n:X) ON EACH [n.a]", None),
        ("DROP INDEX i", "i"),
        ("DROP INDEX", None),
    ],
)
def test_the_name_of_a_schema_rule_is_found(text: str, name: str | None) -> None:
    """Also where it looks like a keyword; None where the server would make one up."""
    assert cypher.schema_name(text, {"name": "p"}) == name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MATCH (n:X) DELETE n", True),
        ("MATCH (n:X) NODETACH DELETE n", True),
        ("MATCH (n:X) detach /* c */ delete n", False),
        ("MATCH (:A)-[r:R]->(:B) DELETE r", False),
        ("MATCH (a:A)-[r:R]->(:B) DELETE r, a", True),
        ("MATCH (a:A)-[r:R]->(:B) WITH a AS r DELETE r", True),
        ("MATCH (:A)-[r:R]->(:B) DELETE r RETURN 1 AS x", False),
        ("MATCH (n:X) SET n.delete = 1", False),
        ("CREATE (:X {s: 'DELETE n'})", False),
        ("MATCH p = (:A)-[r:R]->(:B) DELETE p", True),
        ("MATCH (:A)-[r:R]->(:B) DELETE startNode(r)", True),
    ],
)
def test_a_delete_that_is_judged_at_commit_is_found(text: str, expected: bool) -> None:
    """Relationships alone can always be deleted, nodes without DETACH cannot."""
    assert cypher.deletes_without_detach(text) is expected


@pytest.mark.parametrize(
    "text",
    [
        "MATCH (n) SET n.x = 1",
        "MATCH (n {x: 1}) DETACH DELETE n",
        "MATCH () RETURN count(*) AS c",
        "MATCH (a:A)-->() SET a.x = 1",
        "MATCH (n WHERE n.x = 1) SET n.y = 2",
        "MATCH (n:!A) SET n.x = 1",
        "MATCH (n:%) SET n.x = 1",
        "MATCH (n:$($label)) SET n.x = 1",
        "MATCH (a:A) WITH count(*) AS c MATCH (a) SET a.x = c",
        "MATCH (a:A) CALL (*) { MATCH (b) RETURN b } SET b.x = 1",
        "MATCH (a:A) WHERE exists { (b)-->(:C) } SET a.x = 1",
        "MATCH (a:A) SET a.x = size([(b)-->(:C) | b])",
        "FOREACH (i IN [1] | CREATE (q:Q)) MERGE (q)",
        "MERGE (a:A)-[:R]->(b)",
        "MATCH (($p))",
    ],
)
def test_a_pattern_without_a_label_may_see_the_position(text: str) -> None:
    """Such a command is applied in a transaction of its own."""
    assert sees_any_node(text)


@pytest.mark.parametrize(
    "text",
    [
        "MERGE (u:User {id: $id}) SET u.n = $n",
        "MATCH (a:A {id: $a}), (b:B {id: $b}) MERGE (a)-[:R {w: (1 + 2) * 3}]->(b)",
        "CREATE (:A:B&C $props)",
        "MATCH (u:User) WHERE u.x IN [1, 2] AND (u.y > 1 OR u.z = 2) SET u.c = coalesce(u.c, 0) + count(u)",
        "UNWIND $rows AS row MATCH (a:A {id: row.a}) MERGE (a)-[:R]->(:B {id: row.b})",
        "MATCH (u:User|Admin) DETACH DELETE u",
        "MATCH (u:User) WHERE u.x = '(n)' SET u.y = 1 // (n)",
    ],
)
def test_a_text_whose_patterns_all_have_labels_cannot_see_the_position(text: str) -> None:
    """These share a transaction with their neighbours."""
    assert not sees_any_node(text)


@pytest.mark.parametrize(
    "text",
    [
        "CREATE (u:User {id: $id, name: $name})",
        "create (a)-[:R {x: $x}]->(b), (c) ;",
        "CREATE (a) // RETURN a\nCREATE (b)<-[:R]-(a)",
        "CREATE (a:B $m)",
        "CREATE (a:`x|y` {at: ($x + 1) * 2, `MATCH`: 'RETURN count(*)'})",
    ],
)
def test_what_only_creates(text: str) -> None:
    """Whatever is in the graph, and in whatever order."""
    assert only_creates(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "MATCH (a) CREATE (b)",
        "CREATE (a) SET a.x = 1",
        "CREATE (a) RETURN a",
        "CREATE (a) MERGE (b)",
        "CREATE (a) WITH a MATCH (b) DELETE b",
        "CREATE (a {x: count { (b) }})",
        "CREATE (a {x: EXISTS { (b)-->() }})",
        "CREATE (a {x: COLLECT { MATCH (b) RETURN b.x }})",
        "CREATE (a {x: [(b)-->(c) | c.x]})",
        "CREATE (a {x: (b)--(c)})",
        "CREATE (a {x: rand()})",
        "CREATE (a {x: `my`.`function`($x)})",
        "CREATE p = (a)-[:R]->(b)",
        "CREATE INDEX x FOR (n:A) ON (n.x)",
        "CYPHER 25 CREATE (a)",
        "UNWIND $x AS x CREATE (a)",
        "FOREACH (x IN $x | CREATE (a))",
        "CALL { CREATE (a) }",
        "INSERT (a)",
    ],
)
def test_what_may_do_anything_else(text: str) -> None:
    """Or takes more than a look to be told."""
    assert not only_creates(text)


def test_what_no_server_should_see_is_refused_with_a_reason() -> None:
    """Depth, length, the position's label (also escaped), administration, other graphs, own transactions."""
    assert cypher.nesting_depth("RETURN " + "(" * 101 + "1" + ")" * 101) == 101
    for text in (
        "RETURN " + "(" * 101 + "1" + ")" * 101,
        "RETURN " + "[" * 5000,
        "RETURN " + "+".join(["1"] * 1100) + " AS x",
        "MATCH (m:_KafkaPosition) DELETE m",
        "MATCH (m:\\u005fKafkaPosition) DELETE m",
        "MATCH (m:$('_KafkaPosition')) DELETE m",
        "CREATE USER x SET PASSWORD 'secret'",
        "CREATE OR REPLACE DATABASE x",
        "SHOW USERS",
        "TERMINATE TRANSACTIONS 'x'",
        "USE other MATCH (n) RETURN n",
        "EXPLAIN CREATE (:X)",
        "MATCH (n:X) CALL (n) { DELETE n } IN TRANSACTIONS",
    ):
        assert cypher.refusal(text), text
    for text in (
        "CREATE (u:User)",
        "CREATE (database:USER)",
        "CREATE user = (a:A)-[:R]->(b:B)",
        "MATCH (a:A)-[:R]->" + "()-[:R]->" * 900 + "() SET a.x = 1",
    ):
        assert cypher.refusal(text) is None, text


def test_called_procedures_are_named() -> None:
    """Quoted parts and case do not hide them; subqueries are none."""
    text = "CALL db.`index`.fulltext.queryNodes('i') YIELD node CALL { RETURN 1 AS a } call (a) {RETURN 2 AS b} CALL x"
    assert cypher.procedures(text) == ("db.index.fulltext.queryNodes", "x")
