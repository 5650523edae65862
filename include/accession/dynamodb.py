"""DynamoDB: tables, fast batch writes, conditional writes, reads, parallel scan.

Everything speaks DynamoDB's typed JSON as it is on the wire, bytes or parsed by orjson: {"a": {"S": "x"}, "b": {"B":
"<base64>"}}; never boto3's parsed form. Partition keys are strings. Every read that decides something is strongly
consistent. Limits are from the Developer Guide, "Quotas in Amazon DynamoDB", and the API reference of each operation.

Repeating is safe everywhere: a request that may have been applied before the connection broke is sent again, and its
own effect is not mistaken for somebody else's.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import batched
