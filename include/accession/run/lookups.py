"""Look-ups as the application makes them: through every index it uses, and at its own address. Read-only."""

import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPException

from accession.dynamodb import DynamoDB
from accession.errors import VerificationError
from accession.items import ItemKey, Table, TypedItem

LOOK_UPS = 10  # through each index
INDEX_SECONDS = 60.0  # indexes are eventually consistent; they are asked again for this long
APP_TRIES = 5


def ask_indexes(
    dynamodb: DynamoDB, table: Table, indexes: Mapping[str, Sequence[str]], items: Sequence[TypedItem]
) -> tuple[dict[str, int], list[str]]:
    """Look up to LOOK_UPS of `items` up through each index of a table.

    Returns how many items were asked for through each index, and a line for each item that was never found.
    """
    asked: dict[str, int] = {}
    lost: list[str] = []
    for index, names in indexes.items():
        samples = [item for item in items if all(name in item for name in names)][:LOOK_UPS]
        asked[index] = len(samples)
        keys = {table.key.read(item): {name: item[name] for name in names} for item in samples}
        unfound = [key for key, values in keys.items() if not _finds(dynamodb, table, index, values, key)]
        lost += [f"{index} does not find {key}" for key in unfound]
    return asked, lost


def _finds(dynamodb: DynamoDB, table: Table, index: str, values: TypedItem, key: ItemKey) -> bool:
    """Tell whether an index finds an item, sooner or later, or need not, as the application has changed it since."""
    deadline = time.monotonic() + INDEX_SECONDS
    wait = 0.2
    while key not in dynamodb.query_keys(table, index, values):
        now = dynamodb.read_items(table, [key]).get(key, {})
        if any(now.get(name) != value for name, value in values.items()):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(wait)
        wait = min(wait * 2, 5.0)
    return True


def ask_application(url: str, sleep: Callable[[float], None] = time.sleep) -> int:
    """GET `url` until it answers below 400, a few times; the status. Raises VerificationError."""
    reason = ""
    for attempt in range(APP_TRIES):
        if attempt:
            sleep(2.0**attempt)
        try:
            with urllib.request.urlopen(url, timeout=15) as answer:  # noqa: S310  the params admit http and https only
                return int(answer.status)
        except urllib.error.HTTPError as error:
            reason = f"answers {error.code}"
        except (OSError, ValueError, HTTPException) as error:
            reason = f"does not answer ({getattr(error, 'reason', type(error).__name__)})"
    address = re.sub(r"//[^/]*@", "//", url.partition("?")[0])  # without what may be secret
    raise VerificationError(f"the application at {address} {reason}: look at its log, or leave app_url empty.")
