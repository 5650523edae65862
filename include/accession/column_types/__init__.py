"""Column types: how a value of SQLite becomes a value of DynamoDB, exactly or not at all. Pure.

To add a type: write its function, taking a value and returning a typed one, and enter it in `registry.py`. Its cases
go to tests/unit/test_values.py.
"""

from accession.column_types.numbers import normalize_number
from accession.column_types.registry import COLUMN_TYPES, ColumnType, Default, Option
from accession.column_types.timestamps import FIRST_SEEN, FIRST_SEEN_MARK
from accession.column_types.values import NULL, Converter, KeyType, SqliteValue, TypedValue, ValueProblem

__all__ = [
    "COLUMN_TYPES",
    "FIRST_SEEN",
    "FIRST_SEEN_MARK",
    "NULL",
    "ColumnType",
    "Converter",
    "Default",
    "KeyType",
    "Option",
    "SqliteValue",
    "TypedValue",
    "ValueProblem",
    "normalize_number",
]
