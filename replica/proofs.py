"""Which rewritten texts a server has compiled, beside the text as written.

A rewritten text may compile where the original does not (a field of a row stands where a parameter may not), so it is
used only once the server has accepted both.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

import neo4j
from neo4j.exceptions import Neo4jError

from replica import plan
from replica.outcomes import code_of, is_deterministic


if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from replica.chains import Chain
    from replica.statement import Statement

#: Texts remembered; the texts of an application are few, and literals instead of parameters must not fill the memory.
_REMEMBERED: Final = 2048


class Proofs:
    """Remember what compiles; *sessions* are for asking.  One thread at a time."""

    def __init__(self, sessions: Callable[[], neo4j.Session]) -> None:
        self._sessions = sessions
        self._compiles: OrderedDict[Hashable, bool] = OrderedDict()
        self._seen: OrderedDict[str, None] = OrderedDict()

    def repeated(self, text: str) -> bool:
        """Tell whether *text* was asked about before: two compilations pay off only for a text that comes back."""
        known = text in self._seen
        self._seen[text] = None
        self._seen.move_to_end(text)
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return known

    def groupable(self, statement: Statement) -> bool:
        """Tell whether *statement* may be run through UNWIND over rows of the same types."""
        parameters = plan.columns(statement.text, [statement.parameters])
        return self._all([statement], f"{plan.unwound(statement.text)} RETURN __done", parameters)

    def wrappable(self, statement: Statement) -> bool:
        """Tell whether *statement* may be run as a subquery."""
        return self._all([statement], f"{plan.wrapped(statement.text)} RETURN __n", statement.parameters)

    def chainable(self, chain: Chain) -> bool:
        """Tell whether the commands of *chain* may be run as subqueries of one text."""
        statements = [command.statements[0] for command in chain.commands]
        return self._all(statements, f"{chain.rewritten} RETURN __done", chain.parameters)

    def _all(self, statements: Sequence[Statement], rewritten: str, parameters: Mapping[str, Any]) -> bool:
        """Whether the *statements* and what they were *rewritten* to compile."""
        key = (rewritten, *map(plan.types, statements))
        if key not in self._compiles:
            verdict: bool | None = True
            with self._sessions() as session:
                for text, given in (*((each.text, each.parameters) for each in statements), (rewritten, parameters)):
                    verdict = verdict and _compiles(session, text, given)
            if verdict is None:
                return False
            self._compiles[key] = verdict
            if len(self._compiles) > _REMEMBERED:
                self._compiles.popitem(last=False)
        return self._compiles[key]


def _compiles(session: neo4j.Session, text: str, parameters: Mapping[str, Any]) -> bool | None:
    """Ask the server; None where its answer is about itself and not about the text."""
    try:
        session.run(neo4j.Query(f"EXPLAIN {text}"), dict(parameters)).consume()
    except Neo4jError as error:
        return False if is_deterministic(code_of(error)) else None
    except (ValueError, OverflowError, TypeError):
        return None  # these parameters do not encode; others of their types may
    return True
