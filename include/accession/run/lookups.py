"""Look items up as the application does, through each of its indexes, and ask the application itself. Read-only."""

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
INDEX_SECONDS = 60.0  # indexes are eventually consistent, so they are queried again for this long
APP_TRIES = 5


def ask_indexes(
    dynamodb: DynamoDB, table: Table, indexes: Mapping[str, Sequence[str]], items: Sequence[TypedItem]
) -> tuple[dict[str, int], list[str]]:
    """Look up at most LOOK_UPS of `items` through each index of a table.

    Return the number of items that were looked up through each index, and a line for each item that was not found.
    """
    asked: dict[str, int] = {}
    not_found: list[str] = []
    for index, names in indexes.items():
        samples = [item for item in items if all(name in item for name in names)][:LOOK_UPS]
        asked[index] = len(samples)
        keys = {table.key.read(item): {name: item[name] for name in names} for item in samples}
        missing = [key for key, values in keys.items() if not _has_item(dynamodb, table, index, values, key)]
        not_found += [f"{index} does not find {key}" for key in missing]
    return asked, not_found


def _has_item(dynamodb: DynamoDB, table: Table, index: str, values: TypedItem, key: ItemKey) -> bool:
    """Tell whether an index has an item within INDEX_SECONDS. It need not if the application changed the item since."""
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
    """Send GET requests until the status is below 400, and return it. Raises VerificationError after APP_TRIES."""
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
    address = re.sub(r"//[^/]*@", "//", url.partition("?")[0])  # the user and the query may be secret
    raise VerificationError(f"The application at {address} {reason}: look at its log, or leave app_url empty.")
