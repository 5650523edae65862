"""Models of what people write (mapping files and params), and the wording of errors in it.

Pydantic finds the faults; `explain_faults` says each as a sentence: where, what is wrong, what is allowed there.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Tag, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

# Tags of the types of a field that takes several: Annotated[str, Tag(TEXT)] | Annotated[Block, Tag(BLOCK)], told apart
# by Discriminator(tell_kind). They are in pydantic's paths, and never in a message.
TEXT, LIST, BLOCK = "(text)", "(list)", "(block)"


class StrictModel(BaseModel):
    """A model of what people write: unknown keys are refused, and nothing is changed once it is validated.

    A field with a pattern says in words what it allows: `json_schema_extra={"allowed": "letters and digits"}`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def list_keys(cls) -> tuple[str, ...]:
        """Return the keys that a person may write. Fields that the code fills in are marked `exclude`."""
        return tuple(name for name, field in cls.model_fields.items() if not field.exclude)


def tell_kind(value: object) -> str:
    """Return the tag of a value that may be text, a list or a block: what a field with several types is told by."""
    return LIST if isinstance(value, list | tuple) else BLOCK if isinstance(value, Mapping | BaseModel) else TEXT


class FieldFault(ValueError):
    """Raised by a model's validator for one of its fields, so that the fault is reported at that field."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(problem)
        self.name = name


class Faults(ValueError):
    """Raised by a model's validator for several faults at once."""

    def __init__(self, faults: Sequence[ValueError]) -> None:
        super().__init__("; ".join(map(str, faults)))
        self.faults = tuple(faults)


def collect_faults(checks: Iterable[Callable[[], None]]) -> None:
    """Make all checks, then raise what they raised: a ValueError, or `Faults` if there are several."""
    faults = []
    for check in checks:
        try:
            check()
        except ValueError as fault:
            faults.append(fault)
    if faults:
        raise faults[0] if len(faults) == 1 else Faults(faults)


def list_words(words: Iterable[object], last: str = "or") -> str:
    """Return words as prose: "a, b or c"."""
    texts = [str(word) for word in words]
    return f" {last} ".join(filter(None, (", ".join(texts[:-1]), *texts[-1:])))


def explain_unknown(name: object, known: Iterable[str], problem: str) -> str:
    """Return a sentence about a name that does not exist, with the nearest of those that do."""
    known = list(known)
    near = difflib.get_close_matches(str(name).lower(), known, n=1)
    return f"{problem}{f'; did you mean {near[0]}?' if near else '.'} Known are {list_words(known, 'and')}"


def explain_faults(error: ValidationError, model: type[BaseModel], what: str = "key") -> list[str]:
    """Return each fault of a value that `model` refused, as "<where>: <what is wrong>" without a full stop.

    `what` is the word for a key: "key" in a file, "param" in a run's params, where it stands before the name. The
    refused values themselves, which may be secrets, are never in it; the names of keys are.
    """
    found = (one for details in error.errors(include_url=False) for one in _split_fault(details))
    return [_explain_fault(details, model, what) for details in found]


def _split_fault(details: ErrorDetails) -> list[ErrorDetails]:
    cause = details.get("ctx", {}).get("error")
    return [{**details, "ctx": {"error": fault}} for fault in cause.faults] if isinstance(cause, Faults) else [details]


def _explain_fault(details: ErrorDetails, model: type[BaseModel], what: str) -> str:
    path, kind = list(details["loc"]), details["type"]
    cause = details.get("ctx", {}).get("error")
    if kind == "extra_forbidden":
        parent = _find_type(model, path[:-1])
        problem = explain_unknown(path[-1], _list_keys(parent), f"there is no such {what}")
    elif path and path[-1] == "[key]":
        del path[-2:]
        problem = _explain_bad_name(details["input"], what)
    elif kind == "invalid_key":
        path.pop()
        problem = _explain_bad_name(details["input"], what)
    elif isinstance(cause, FieldFault):
        path.append(cause.name)
        problem = str(cause)
    else:
        problem = _explain_problem(details, model)
    where = ".".join(str(part) for part in path if part not in (TEXT, LIST, BLOCK))
    named = where if what == "key" else f"{what.capitalize()} {where}"
    return f"{named}: {problem}" if where else problem


def _explain_bad_name(given: object, what: str) -> str:
    if isinstance(given, str):
        return f"the {what} {given!r} is {'not allowed' if given else 'empty'}"
    return f"the {what} {given} is {_name_type(given)}; put it in quotes"


_BOUNDS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}
_NEEDED = {  # by the first word of pydantic's name for the error: string_type, int_parsing
    "string": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "dict": "a block of names, each with its own keys",
    "tuple": "a list",
}


def _explain_problem(details: ErrorDetails, model: type[BaseModel]) -> str:
    kind, context = details["type"], details.get("ctx", {})
    match kind:
        case "value_error":
            return str(context["error"])
        case "missing":
            return "this key is missing"
        case "string_unicode":
            return "is not valid Unicode; correct the escapes in it, such as \\ud800"
        case "literal_error" | "enum":
            return f"must be {str(context['expected']).replace(chr(39), '')}"
        case "string_pattern_mismatch":
            field = _find_field(model, details["loc"])
            extra = field.json_schema_extra if field else None
            words = extra.get("allowed") if isinstance(extra, dict) else None
            return f"must be {words}" if words else f"must match the pattern {context['pattern']}"
        case "string_too_short" | "too_short":
            return _explain_length("at least", int(context["min_length"]), kind)
        case "string_too_long" | "too_long":
            return _explain_length("at most", int(context["max_length"]), kind)
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"must be {words} {context[name]}"
    needed = _NEEDED.get(kind.split("_")[0])
    if kind == "model_type":
        needed = f"a block with the keys {list_words(_list_keys(_find_type(model, details['loc'])), 'and')}"
    if needed is None:
        return details["msg"].replace("Input should", "must").replace("should", "must")
    if not kind.endswith("_type"):  # int_parsing, int_from_float: right in kind, wrong in value
        return f"must be {needed}"
    given = _name_type(details["input"])
    quotes = "; put it in quotes" if needed == "text" and given not in ("a list", "a block", "empty") else ""
    return f"must be {needed}, but is {given}{quotes}"


def _explain_length(bound: str, length: int, kind: str) -> str:
    if bound == "at least" and length == 1:
        return "must not be empty"
    unit = "character" if kind.startswith("string") else "entry"
    plural = {"character": "characters", "entry": "entries"}[unit]
    return f"must have {bound} {length} {unit if length == 1 else plural}"


def _name_type(value: object) -> str:
    """Return the kind of a value in the words of YAML; never the value."""
    match value:
        case None:
            return "empty"
        case bool():
            return "true or false"
        case int() | float() | Decimal():
            return "a number"
        case str():
            return "text"
        case bytes():
            return "binary"
        case list() | tuple():
            return "a list"
        case Mapping():
            return "a block"
        case _:
            return f"a {type(value).__name__}"


def _list_keys(model: type | None) -> tuple[str, ...]:
    if model is None or not issubclass(model, BaseModel):
        return ()
    return model.list_keys() if issubclass(model, StrictModel) else tuple(model.model_fields)


def _find_field(model: type[BaseModel], path: Iterable[int | str]) -> FieldInfo | None:
    """Return the field at the end of a path, or what it says of its entries if the path ends with a number."""
    *way, name = path
    if isinstance(name, int) and (field := _find_field(model, way)):
        return next((found for found in _list_metadata(field) if isinstance(found, FieldInfo)), None)
    parent = _find_type(model, way)
    return parent.model_fields.get(str(name)) if parent and issubclass(parent, BaseModel) else None


def _list_metadata(field: FieldInfo) -> tuple[Any, ...]:
    """Return what annotates the entries of a list."""
    entry = next(iter(get_args(field.annotation)), None)
    return get_args(entry)[1:] if get_origin(entry) is Annotated else ()


def _find_type(model: type[BaseModel], path: Iterable[int | str]) -> type | None:
    """Return the type at the end of a path through fields, dictionaries and lists; None if there is none."""
    found: Any = model
    for part in path:
        if part in (TEXT, LIST, BLOCK):
            found = _unwrap(next(one for one in get_args(found) if Tag(str(part)) in get_args(one)[1:]))
            continue
        if get_origin(found) in (Union, UnionType):
            return None
        origin = get_origin(found)
        if isinstance(found, type) and issubclass(found, BaseModel):
            field = found.model_fields.get(str(part))
            found = _unwrap(field.annotation) if field else None
        elif origin in (dict, Mapping):
            found = _unwrap(get_args(found)[1])
        elif origin in (tuple, list):
            found = _unwrap(get_args(found)[0])
        else:
            return None
    return found if isinstance(found, type) else None


def _unwrap(annotation: Any) -> Any:
    """Take away `Annotated` and `| None`."""
    if get_origin(annotation) is Annotated:
        return _unwrap(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        members = [one for one in get_args(annotation) if one is not type(None)]
        return _unwrap(members[0]) if len(members) == 1 else annotation
    return annotation
