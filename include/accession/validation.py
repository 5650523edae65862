"""Put into plain words what pydantic finds wrong with a param.

pydantic's own messages ("Input should be a valid integer, got a number with a fractional part") are long, name no
remedy and change between its versions.
"""

from typing import Any

from pydantic import ValidationError

# pydantic's error type → our words, filled from the error's context. Others keep pydantic's message.
PHRASES = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "finite_number": "must be a finite number",
    "greater_than_equal": "must be at least {ge}",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number within its bounds",
    "int_type": "must be a whole number",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "string_pattern_mismatch": "must match the pattern {pattern}",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must have at least {min_length} characters",
    "string_type": "must be text",
}


def describe_first(error: ValidationError) -> tuple[str, str, str]:
    """Return the place of the first error as a dotted path, pydantic's type for it, and our words: "must be text".

    The value is not quoted, as it may be personal.
    """
    first: Any = error.errors(include_url=False, include_input=False)[0]
    where, kind = ".".join(str(part) for part in first["loc"]), first["type"]
    if kind == "value_error":  # raised by a validator of ours, in whole sentences
        return where, kind, str(first["ctx"]["error"])
    phrase = PHRASES.get(kind)
    return where, kind, phrase.format(**first.get("ctx", {})) if phrase else f"is wrong: {first['msg']}"
