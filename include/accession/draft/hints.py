"""What the names of columns hint at: secrets, and references that the schema does not declare."""

from collections.abc import Iterable, Mapping
from itertools import pairwise

from accession.draft.names import split_words
from accession.draft.references import Table

# Credentials, and what identifies a person or pays for one. A time or a flag beside them is neither.
SECRET_WORDS = {
    "password", "passwords", "passwd", "pwd", "passphrase", "passcode", "secret", "secrets", "token", "tokens", "hash",
    "hashes", "salt", "apikey", "credential", "credentials", "otp", "totp", "ssn", "iban", "email", "emails", "phone",
}  # fmt: skip
SECRET_PAIRS = {("api", "key"), ("private", "key"), ("access", "key"), ("secret", "key"), ("session", "key"),
                ("card", "number"), ("recovery", "code"), ("recovery", "codes")}  # fmt: skip
OPEN_TYPES = {"boolean", "timestamp", "date"}
SECRET_NUMBERS = {"otp", "totp", "passcode", "ssn", "phone"}  # other numbers count secrets, or are their ids
ID_WORDS = {"id", "uuid", "guid"}


def looks_secret(column: str, column_type: str) -> bool:
    """Tell whether a column looks like a secret or personal data, by its name."""
    words = split_words(column)
    if column_type == "number":
        return not SECRET_NUMBERS.isdisjoint(words)
    pairs = pairwise(words)
    return column_type not in OPEN_TYPES and (not SECRET_WORDS.isdisjoint(words) or not SECRET_PAIRS.isdisjoint(pairs))


def find_polymorphic(columns: Iterable[str]) -> dict[str, str]:
    """Return the columns that refer to one of several tables, with the column that says to which."""
    by_words = {tuple(split_words(column)): column for column in columns}
    return {
        column: by_words[(*words[:-1], "type")]
        for words, column in by_words.items()
        if len(words) > 1 and words[-1] in ID_WORDS and (*words[:-1], "type") in by_words
    }


def find_undeclared(column: str, tables: Mapping[tuple[str, ...], Table]) -> Table | None:
    """Return the table that a column such as `artist_id` is named after. `tables` has them by their words."""
    words = tuple(split_words(column))
    if len(words) < 2 or words[-1] not in ID_WORDS:
        return None
    *before, last = words[:-1]
    plurals = (last, f"{last}s", f"{last}es", f"{last[:-1]}ies")
    return next((tables[name] for one in plurals if (name := (*before, one)) in tables), None)


def is_named_as_id(column: str) -> bool:
    """Tell whether a column is named as one that holds ids of another table."""
    words = split_words(column)
    return len(words) > 1 and words[-1] in ID_WORDS
