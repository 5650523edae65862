"""Texts, booleans and binaries; and `auto`, which follows SQLite's storage class."""

import base64

from accession.column_types.numbers import to_number
from accession.column_types.values import SqliteValue, TypedValue, ValueProblem, refuse_class


def to_string(value: SqliteValue) -> TypedValue:
    """Convert text as it is, and an integer to its digits: SQLite stores some texts so (the title 1984 in a column
    declared STRING)."""
    if type(value) is str:
        return {"S": value}
    if type(value) is int:
        return {"S": str(value)}
    raise refuse_class(value, "string")


def read_string_default(value: object) -> TypedValue:
    """Return the default of a string. Raises ValueProblem."""
    if not isinstance(value, str):
        raise ValueProblem("is not text")
    return {"S": value}


def to_boolean(value: SqliteValue) -> TypedValue:
    """Convert 0 and 1, as a number or as text, and true and false in any case."""
    if type(value) is int and value in (0, 1):
        return {"BOOL": value == 1}
    if type(value) is str and value.lower() in ("0", "1", "true", "false"):
        return {"BOOL": value.lower() in ("1", "true")}
    raise ValueProblem("is neither 0 nor 1, true nor false")


def read_boolean_default(value: object) -> TypedValue:
    """Return the default of a boolean. Raises ValueProblem."""
    if not isinstance(value, bool):
        raise ValueProblem("is neither true nor false")
    return {"BOOL": value}


def to_binary(value: SqliteValue) -> TypedValue:
    """Convert a BLOB to base64."""
    if type(value) is bytes:
        return {"B": base64.b64encode(value).decode("ascii")}
    raise refuse_class(value, "binary")


def to_auto(value: SqliteValue) -> TypedValue:
    """Convert by SQLite's storage class: INTEGER and REAL to a number, TEXT to a string, BLOB to a binary."""
    if type(value) is str:
        return {"S": value}
    return to_binary(value) if type(value) is bytes else to_number(value)
