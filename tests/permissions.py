"""What a request to AWS needs, and what a policy grants: a recorder in front of the local AWS, and a small evaluator.

The actions are those of the Service Authorization Reference and, for S3, of "Required permissions for Amazon S3 API
operations". The evaluator knows what our policies use and refuses everything else, so that nothing is granted by
mistake.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import boto3
import pytest
import s3transfer.copies

from faults.proxy import Proxy, Request

TAGS_LATE = hasattr(s3transfer.copies, "CopyCompleteMultipartUploadTask")
"""Whether this boto3 tags a copy in parts when it is complete. Older ones do as it begins, which MiniStack ignores."""

TABLES = "arn:aws:dynamodb:us-east-1:000000000000:table/"
REFUSED = (
    b"HTTP/1.1 403 Forbidden\r\ncontent-type: application/xml\r\ncontent-length: 46\r\n\r\n"
    b"<Error><Code>AccessDenied</Code></Error>      "
)


@dataclass(frozen=True)
class Need:
    """One permission that a request needs. `context` has the condition keys that AWS would see."""

    action: str
    resource: str
    context: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        return f"{self.action} on {self.resource} {dict(self.context) or ''}".rstrip()


class Recorder(Proxy):
    """Forwards everything to the local AWS and notes what permissions it would need. `keys`: bucket → its customer key.

    The next `failing_parts` parts of uploads are refused.
    """

    def __init__(self, upstream: str, keys: Mapping[str, str]) -> None:
        super().__init__(upstream)
        self.keys = keys
        self.needs: list[Need] = []
        self.failing_parts = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Make every client that is opened meanwhile talk to this recorder."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", self.endpoint)
            yield

    def take(self) -> list[Need]:
        """What was needed since the last call, each once."""
        taken, self.needs = self.needs, []
        return list(dict.fromkeys(taken))

    async def _answer(self, request: Request) -> bytes | None:
        self.needs += find_needs(request, self.keys)
        if self.failing_parts and request.method == "PUT" and "partNumber=" in request.target:
            self.failing_parts -= 1
            return REFUSED
        return await self._forward(request)


def find_needs(request: Request, keys: Mapping[str, str]) -> list[Need]:
    """What a signed request needs. Raises ValueError for one that it does not know."""
    service = request.header("authorization").partition("Credential=")[2].split(",")[0].split("/")[3]
    if service == "sts" and b"Action=GetCallerIdentity" in request.body:
        return []  # "No permissions are required" (API reference)
    if service == "dynamodb":
        return list(_find_table_needs(request.operation, json.loads(request.body)))
    if service == "s3":
        return list(_find_object_needs(request, keys))
    raise ValueError(f"{request.method} {request.target} is for {service}, which no policy of ours knows.")


def _find_table_needs(operation: str, body: dict[str, Any]) -> Iterator[Need]:
    if "ResourceArn" in body:
        yield Need(f"dynamodb:{operation}", body["ResourceArn"])
        return
    for table in body.get("RequestItems") or [body["TableName"]]:
        index = f"/index/{body['IndexName']}" if "IndexName" in body else ""
        yield Need(f"dynamodb:{operation}", f"{TABLES}{table}{index}")


def _find_object_needs(request: Request, keys: Mapping[str, str]) -> Iterator[Need]:
    address = urlsplit(request.target)
    bucket, _, key = unquote(address.path.lstrip("/")).partition("/")
    query = dict(parse_qsl(address.query, keep_blank_values=True))
    place = f"arn:aws:s3:::{bucket}/{key}"
    known = {"partNumber", "tagging", "uploadId", "uploads", "versionId", "x-id"} if key else set(query)
    if not set(query) <= known:
        raise ValueError(f"{request.method} {request.target} has a part that is not known here.")
    is_part = "uploads" in query or "partNumber" in query
    if "tagging" in query and request.method in ("GET", "PUT"):  # boto3 sends one after a copy in parts
        version = "Version" if "versionId" in query else ""
        yield Need(f"s3:{request.method.title()}Object{version}Tagging", place)
        return
    if query.keys() & {"tagging", "versionId"}:
        raise ValueError(f"{request.method} {request.target} is not known here.")
    match request.method:
        case "GET" if not key and query.get("list-type") == "2":
            yield Need("s3:ListBucket", f"arn:aws:s3:::{bucket}")
        case "GET" if key and not query.keys() - {"x-id"}:
            yield from _read(bucket, key, keys)
        case "HEAD" if key:
            yield Need("s3:GetObject", place)
        case "DELETE" if "uploadId" in query:
            yield Need("s3:AbortMultipartUpload", place)
        case "DELETE" if key:
            yield Need("s3:DeleteObject", place)
        case "PUT" | "POST" if key:
            context = {f"s3:{name}": value for name in ("if-match", "if-none-match") if (value := request.header(name))}
            if is_part:
                context["s3:ObjectCreationOperation"] = "false"
            yield Need("s3:PutObject", place, context)
            if request.header("x-amz-tagging"):
                yield Need("s3:PutObjectTagging", place)
            yield from _use_key(keys.get(bucket), "kms:GenerateDataKey")
            if query.keys() & {"partNumber", "uploadId"}:  # S3 User Guide, "Multipart upload API and permissions"
                yield from _use_key(keys.get(bucket), "kms:Decrypt")
            if source := unquote(request.header("x-amz-copy-source")).lstrip("/"):
                origin, _, name = source.partition("/")
                yield from _read(origin, name, keys)
                if not is_part and request.header("x-amz-tagging-directive") != "REPLACE":
                    yield Need("s3:GetObjectTagging", f"arn:aws:s3:::{source}")
                    yield Need("s3:PutObjectTagging", place)
        case _:
            raise ValueError(f"{request.method} {request.target} is not known here.")


def _read(bucket: str, key: str, keys: Mapping[str, str]) -> Iterator[Need]:
    yield Need("s3:GetObject", f"arn:aws:s3:::{bucket}/{key}")
    yield from _use_key(keys.get(bucket), "kms:Decrypt")


def _use_key(key: str | None, action: str) -> Iterator[Need]:
    if key:
        yield Need(action, key, {"kms:ViaService": "s3.us-east-1.amazonaws.com"})


Document = dict[str, Any]


def read_policy(*arns: str) -> Document:
    """The document of managed policies as they are deployed; that of several has the statements of all."""
    iam = boto3.client("iam")
    statements = []
    for arn in arns:
        version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
        document: Any = iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"]
        statements += document["Statement"]
    return {"Statement": statements}


def allows(document: Document, need: Need) -> bool:
    """Whether a policy grants what is needed."""
    return any(_grants(statement, need) for statement in document["Statement"])


def find_denied(document: Document, needs: list[Need]) -> set[Need]:
    """Those of the needs that the policy does not grant."""
    return {need for need in needs if not allows(document, need)}


def shrink(document: Document) -> Iterator[tuple[str, Document]]:
    """The policy without one action or one resource of one statement, for each of them, and its name."""
    for number, statement in enumerate(document["Statement"]):
        for member in ("Action", "Resource"):
            for value in _list(statement[member]):
                less = deepcopy(document)
                less["Statement"][number][member] = [other for other in _list(statement[member]) if other != value]
                yield f"{statement['Sid']} without {value}", less


def _grants(statement: Document, need: Need) -> bool:
    if statement["Effect"] != "Allow" or set(statement) - {"Sid", "Effect", "Action", "Resource", "Condition"}:
        raise ValueError(f"Statement {statement['Sid']} has something that is not known here.")
    return (
        need.action in _list(statement["Action"])
        and any(_fits(pattern, need.resource) for pattern in _list(statement["Resource"]))
        and all(
            _meets(operator, need.context.get(key), wanted)
            for operator, keys in statement.get("Condition", {}).items()
            for key, wanted in keys.items()
        )
    )


def _meets(operator: str, found: str | None, wanted: str) -> bool:
    match operator:
        case "Null":
            return (found is None) == (wanted == "true")
        case "StringLike":
            return found is not None and _fits(wanted, found)
    raise ValueError(f"The operator {operator} is not known here.")


def _fits(pattern: str, text: str) -> bool:
    """IAM's wildcards are * and ?, and * crosses slashes. Brackets are plain characters."""
    return fnmatchcase(text, pattern.replace("[", "[[]"))


def _list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
