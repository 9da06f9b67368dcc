"""Which ending an error gives its command: rejected (the same on every replica) or held (only here, only now).

The allow-list goes by code, never by family: several ClientErrors depend on the machine (time-outs, memory, missing
procedures) and some DatabaseErrors do not.  What is not on the list is held; a wrong guess then costs a wait, not a
replica that silently differs.
"""

from __future__ import annotations

from typing import Final

from neo4j.exceptions import AuthError, DriverError, Neo4jError


#: Our own code for a parameter that the driver cannot put on the wire (a lone surrogate, 65 bits, a set).
NOT_ENCODABLE: Final = "Replica.ParameterNotEncodable"

_STATEMENT: Final = (
    "ArgumentError",
    "ArithmeticError",
    "ConstraintVerificationFailed",
    "EntityNotFound",
    "LabelNotFound",
    "ParameterMissing",
    "PropertyNotFound",
    "SemanticError",
    "SyntaxError",
    "TypeError",
    "UnsupportedAdministrationCommand",  # Community has none of them, on any replica
)
_SCHEMA: Final = (
    "ConstraintAlreadyExists",
    "ConstraintNotFound",
    "ConstraintValidationFailed",
    "ConstraintViolation",
    "ConstraintWithNameAlreadyExists",
    "EquivalentSchemaRuleAlreadyExists",
    "ForbiddenOnConstraintIndex",
    "IndexAlreadyExists",
    "IndexNotFound",
    "IndexWithNameAlreadyExists",
    "RepeatedLabelInSchema",
    "RepeatedPropertyInCompositeSchema",
    "RepeatedPropertyInSchema",
    "RepeatedRelationshipTypeInSchema",
    "TokenLengthError",
    "TokenNameError",
)

#: Codes that every replica gives for the same command at the same position.
DETERMINISTIC: Final[frozenset[str]] = frozenset(
    [f"Neo.ClientError.Statement.{name}" for name in _STATEMENT]
    + [f"Neo.ClientError.Schema.{name}" for name in _SCHEMA]
    + [
        NOT_ENCODABLE,
        "Neo.ClientError.General.InvalidArguments",  # an index's options: its provider, dimensions that are too many
        "Neo.ClientError.Data.DataUnsupportedByStoreFormat",
        "Neo.ClientError.Transaction.ForbiddenDueToTransactionType",
        "Neo.ClientError.Transaction.TransactionValidationFailed",
        # DatabaseErrors by name, yet they judge the command and not the machine.
        "Neo.DatabaseError.Schema.ConstraintCreationFailed",
        "Neo.DatabaseError.Schema.ConstraintDropFailed",
        "Neo.DatabaseError.Schema.IndexDropFailed",
    ]
)

#: Deterministic only where every procedure of the text is built in (a missing full-text index, a bad argument).
BUILT_IN_ONLY: Final[frozenset[str]] = frozenset(["Neo.ClientError.Procedure.ProcedureCallFailed"])

#: Failures of the server by their code, which judge the command all the same: by what their message says, in English
#: on every server.  One that is not recognised is held.
BY_MESSAGE: Final[frozenset[tuple[str, str]]] = frozenset(
    ("Neo.DatabaseError.Statement.ExecutionFailed", beginning)
    for beginning in (
        "Property value is too large to index",
        "The shortest path algorithm does not work when the start and end nodes are the same",
    )
)

_AUTHENTICATION: Final = frozenset(
    ["Neo.ClientError.Security.Unauthorized", "Neo.ClientError.Security.AuthenticationRateLimit"]
)

#: Longer than Neo4j's own lock-out after three wrong passwords (5 s by default), and slow enough not to renew it.
AUTHENTICATION_PAUSE_S: Final = 30.0
#: A deadlock's other side has committed by then.
TRANSIENT_PAUSE_S: Final = 0.1
#: Neo4j needs 5 to 13 s to come back after a crash: ask about once a second.
CONNECTION_PAUSE_S: Final = 1.0
#: What a person has to mend (a missing procedure, memory, a disk): ask seldom.
LOCAL_PAUSE_S: Final = 5.0

#: Characters of a server's message that are kept; it may quote the whole statement.
MESSAGE_LIMIT: Final = 500


def is_deterministic(code: str, *, built_in_only: bool = False, message: str = "") -> bool:
    """Tell whether every replica gives *code*, with this *message*, for the same command.

    *built_in_only* as in `BUILT_IN_ONLY`.
    """
    if code in DETERMINISTIC or (built_in_only and code in BUILT_IN_ONLY):
        return True
    return any(code == known and message.startswith(beginning) for known, beginning in BY_MESSAGE)


def is_authentication(error: BaseException) -> bool:
    """Tell whether *error* is about the user or the password, also when the right one is locked out."""
    return isinstance(error, AuthError) or code_of(error) in _AUTHENTICATION


def code_of(error: BaseException) -> str:
    """Give the server's code where there is one, else the class name of the driver's error."""
    if isinstance(error, Neo4jError) and error.code:
        return error.code
    return type(error).__name__


def message_of(error: BaseException) -> str:
    """Give a message short enough to be stored in the graph and published."""
    text = (error.message if isinstance(error, Neo4jError) else None) or str(error)
    return text[:MESSAGE_LIMIT]


def pause_s(error: BaseException) -> float:
    """Seconds to wait before trying what failed with *error* again."""
    if is_authentication(error):
        return AUTHENTICATION_PAUSE_S
    if isinstance(error, (DriverError, OSError)):
        return CONNECTION_PAUSE_S
    return TRANSIENT_PAUSE_S if code_of(error).startswith("Neo.TransientError.") else LOCAL_PAUSE_S
