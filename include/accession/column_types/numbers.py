"""Numbers: exact, with one text each, within DynamoDB's limits. A float is only ever read by its shortest text."""

import re
from decimal import Decimal, localcontext

from accession.column_types.values import SqliteValue, TypedValue, ValueProblem, refuse_class

# Amazon DynamoDB Developer Guide, "Supported data types and naming rules": 38 significant digits, 1E-130 to 9.99…E+125.
MAX_DIGITS = 38
MIN_EXPONENT = -130
MAX_EXPONENT = 125

NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,6})?", re.ASCII)


def to_number(value: SqliteValue) -> TypedValue:
    """Convert an integer, a real by its shortest exact text, or text that is a number."""
    if type(value) is int:
        return {"N": str(value)}
    if type(value) is float:
        return {"N": normalize_number(Decimal(repr(value)))}
    if type(value) is str:
        return {"N": normalize_number(parse_number(value))}
    raise refuse_class(value, "number")


def parse_number(text: str) -> Decimal:
    """Read a number from text as it stands. Raises ValueProblem."""
    if not NUMBER.fullmatch(text):
        raise ValueProblem("is not a number")
    return Decimal(text)


def normalize_number(number: Decimal) -> str:
    """Return the one text of a number: plain digits if they are short, else with an exponent. Raises ValueProblem."""
    if not number.is_finite():
        raise ValueProblem("is not a finite number, which DynamoDB cannot hold")
    if not number:
        return "0"
    # Check the range before any arithmetic, which would round a number beyond Python's own range.
    if not MIN_EXPONENT <= number.adjusted() <= MAX_EXPONENT:
        raise ValueProblem("is outside DynamoDB's number range, 1E-130 to 9.99E+125")
    with localcontext() as context:
        context.prec = MAX_DIGITS + len(number.as_tuple().digits)
        number = number.normalize()
    if len(number.as_tuple().digits) > MAX_DIGITS:
        raise ValueProblem(f"has more than the {MAX_DIGITS} significant digits that DynamoDB holds")
    return format(number, "f") if -MAX_DIGITS <= number.adjusted() <= MAX_DIGITS else str(number)


def read_number_default(value: object) -> TypedValue:
    """Return the default of a number: an int, a Decimal, or a float by its shortest text. Raises ValueProblem."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueProblem("is not a number")
    return {"N": normalize_number(Decimal(repr(value) if isinstance(value, float) else value))}
