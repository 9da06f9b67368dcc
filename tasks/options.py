"""What a query may be told besides its arguments, when it is declared and when it is sent.  Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from tasks import levels
from tasks.errors import LevelRefused, OptionRefused, OptionUnknown


if TYPE_CHECKING:
    from collections.abc import Mapping

#: Where an answer is kept besides being sent, and for how many seconds.
STORE: Final = "store"
TTL: Final = "ttl"

#: Seconds from the send after which nobody waits for the answer, and at most.
DEADLINE: Final = "deadline"
LONGEST_DEADLINE_S: Final = 86_400.0

#: The only store that there is.
REDIS: Final = "redis"

#: Seconds that an answer is kept, unless its caller says; and at most.
TTL_S: Final = 3600.0
LONGEST_TTL_S: Final = 604_800.0

#: What `send_with_options` takes: seconds that a query may run, rows, the record's key in Kafka, until when somebody
#: waits, keeping, and levels.
OPTIONS: Final = frozenset({"timeout", "max_rows", "key", DEADLINE, STORE, TTL}) | levels.OPTIONS

#: What a message takes besides, whose place in a pipeline is not known yet.
PIPED: Final = frozenset({"pipe_ignore"})

#: What belongs to one call, and never to all calls of a function.
_OF_A_CALL: Final = frozenset({"key", "at_least", DEADLINE})

#: Of these, one stands for all: an option that is given replaces whatever was declared.
_FRESH: Final = frozenset({"at_least", "max_lag", "max_lag_s", "linearizable"})


def declared(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a decorator, which all calls of the function have unless they say otherwise.

    Raises:
      OptionUnknown, OptionRefused, LevelRefused: what no call could have; levels that contradict each other.
    """
    _refuse_unknown(options, OPTIONS - _OF_A_CALL, "a query function can be declared with no option")
    given = _present(options)
    _refuse_wrong(given)
    levels.refuse_wrong(given)
    return given


def of_call(declaration: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """*options* of a call, over those of the *declaration*.

    Raises:
      OptionUnknown, OptionRefused: names the option.
    """
    _refuse_unknown(options, OPTIONS, "queries have no option")
    return _merged(declaration, options)


def of_message(name: str, declaration: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """*options* of a message, which is sent at some other time, by somebody else.

    Raises:
      LevelRefused: it has a level, by what is given or declared.
      OptionUnknown, OptionRefused: names the option.
    """
    _refuse_unknown(options, OPTIONS | PIPED, "queries have no option")
    found = _merged(declaration, options)
    of_declaration = sorted(levels.OPTIONS & found.keys() - options.keys())
    if of_declaration:
        off = ", ".join(f"{option}=None" for option in of_declaration)
        raise LevelRefused(
            f"{name} is declared with {', '.join(of_declaration)}, which is settled when a query is sent: use"
            f" send_with_options, or say {off} for a message in a group or a pipeline"
        )
    levels.refused_later(found)
    if DEADLINE in found:
        raise OptionRefused(f"{DEADLINE}: until when an answer is wanted is settled when the query is sent")
    return found


def _merged(declaration: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """An option that is given as None or False takes back what was declared."""
    replaced = options.keys() | (_FRESH if _FRESH & options.keys() else frozenset())
    found = {name: value for name, value in declaration.items() if name not in replaced} | _present(options)
    if STORE not in found and TTL not in options:
        found.pop(TTL, None)  # a declared one goes with what it was for
    _refuse_wrong(found)
    if "wait" not in options and _waits_in_vain(found):
        found.pop("wait", None)
    return found


def _waits_in_vain(found: Mapping[str, Any]) -> bool:
    """Whether a declared ``wait`` has lost its level, or would outlast the timeout that is given."""
    return levels.OPTIONS & found.keys() == {"wait"} or found.get("wait", 0) > found.get("timeout", math.inf)


def _present(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None and value is not False}


def _refuse_unknown(options: Mapping[str, Any], known: frozenset[str], sentence: str) -> None:
    unknown = options.keys() - known
    if unknown:
        names = ", ".join(sorted(known - PIPED))
        raise OptionUnknown(f"{sentence} {', '.join(sorted(unknown))}; they have {names}")


def _refuse_wrong(options: Mapping[str, Any]) -> None:
    timeout = options.get("timeout", 1)
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < math.inf:
        raise OptionRefused(f"timeout is a number of seconds above zero, not {timeout!r}")
    rows = options.get("max_rows", 1)
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
        raise OptionRefused(f"max_rows is a number of rows from 1, not {rows!r}")
    deadline = options.get(DEADLINE, 1)
    if isinstance(deadline, bool) or not isinstance(deadline, (int, float)) or not 0 < deadline <= LONGEST_DEADLINE_S:
        raise OptionRefused(
            f"{DEADLINE} is a number of seconds above zero, at most {LONGEST_DEADLINE_S:,.0f}, not {deadline!r}"
        )
    if not isinstance(options.get("key", ""), str):
        raise OptionRefused(f"key is a text, not {options['key']!r}")
    if options.get(STORE, REDIS) != REDIS:
        raise OptionRefused(f'{STORE} is "{REDIS}", or left out; not {options[STORE]!r}')
    if TTL in options and STORE not in options:
        raise OptionRefused(f'{TTL} says how long an answer is kept: say {STORE}="{REDIS}", too')
    if not _is_ttl(options.get(TTL, TTL_S)):
        raise OptionRefused(
            f"{TTL} is a number of seconds above zero, at most {LONGEST_TTL_S:,.0f}, not {options[TTL]!r}"
        )


def ttl_of(options: Mapping[str, Any]) -> float:
    """The seconds for which the answer to a message is kept; anybody may have written it."""
    given: Any = options.get(TTL)
    return float(given) if _is_ttl(given) else TTL_S


def _is_ttl(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, (int, float)) and 0 < value <= LONGEST_TTL_S
