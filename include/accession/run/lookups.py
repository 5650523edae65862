"""Look items up as the application does, through each of its indexes, and ask the application itself. Read-only."""

import logging
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPException
from typing import NamedTuple

from accession.dynamodb import DynamoDB
from accession.errors import VerificationError
from accession.host import Host
from accession.items import ItemKey, Table, TypedItem
from accession.mapping import Index

logger = logging.getLogger(__name__)

LOOK_UPS = 10  # through each index
INDEX_SECONDS = 300.0  # indexes are eventually consistent, so they are queried again for this long, all together
APP_TRIES = 5


class LookUps(NamedTuple):
    """Look-ups through the indexes of a table.

    `asked` and `not_known` are numbers of items by index. `missing` has a line for each item that was not found.
    """

    asked: dict[str, int]
    not_known: dict[str, int]
    missing: list[str]


def ask_indexes(
    dynamodb: DynamoDB, table: Table, indexes: Sequence[Index], items: Sequence[TypedItem], host: Host
) -> LookUps:
    """Look up at most LOOK_UPS of `items` through each index of a table, for INDEX_SECONDS in all.

    An item is asked for by all attributes of the index's key, and recognised by its own key, which every index holds,
    whatever else it projects.
    """
    deadline = host.monotonic() + INDEX_SECONDS
    found = LookUps({}, {}, [])
    for index in indexes:
        samples = [item for item in items if all(name in item for name in index.names)][:LOOK_UPS]
        found.asked[index.name] = len(samples)
        for item in samples:
            key = table.key.read(item)
            values = {name: item[name] for name in index.names}
            has_item = _has_item(dynamodb, table, index.name, values, key, host, deadline)
            if has_item is None:
                found.not_known[index.name] = found.not_known.get(index.name, 0) + 1
            elif not has_item:
                found.missing.append(f"{index.name} does not find {table.mask.show(key)}")
    for name, count in found.not_known.items():
        logger.warning(
            "%d of %d look-ups through %s of %s ended at their limit of pages: too many items share a key of the index",
            count, found.asked[name], name, table.name,
        )  # fmt: skip
    return found


def _has_item(
    dynamodb: DynamoDB, table: Table, index: str, values: TypedItem, key: ItemKey, host: Host, deadline: float
) -> bool | None:
    """Tell whether an index has an item by the deadline. It need not if the application changed the item since.

    None if so many items share the index's key that this is not known.
    """
    wait = 0.2
    while not (found := dynamodb.finds_item(table, index, values, key)):
        if found is None:
            return None
        now = dynamodb.read_items(table, [key]).get(key, {})
        if any(now.get(name) != value for name, value in values.items()):
            return True
        if host.monotonic() > deadline:
            return False
        host.sleep(wait)
        wait = min(wait * 2, 5.0)
    return True


class _StayHere(urllib.request.HTTPRedirectHandler):
    """Follows no redirect."""

    def redirect_request(self, *_: object) -> None:
        return None


def ask_application(url: str, sleep: Callable[[float], None] = time.sleep) -> int:
    """Send GET requests until the status is below 400, and return it. Raises VerificationError after APP_TRIES.

    A redirect is not followed: it may lead to an address that nobody allowed.
    """
    reason = ""
    opener = urllib.request.build_opener(_StayHere)
    for attempt in range(APP_TRIES):
        if attempt:
            sleep(2.0**attempt)
        try:
            with opener.open(url, timeout=15) as answer:  # the params admit http and https only
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 400:
                return error.code
            reason = f"answers {error.code}"
        except (OSError, ValueError, HTTPException) as error:
            reason = f"does not answer ({getattr(error, 'reason', type(error).__name__)})"
    address = re.sub(r"//[^/]*@", "//", url.partition("?")[0])  # the user and the query may be secret
    raise VerificationError(f"The application at {address} {reason}: look at its log, or leave app_url empty.")
