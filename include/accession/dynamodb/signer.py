"""Signature Version 4 for the one shape that a request to DynamoDB has: a POST of JSON to one URL.

botocore's signer is made for any request, and took a third of a request's CPU time. Credentials and their refresh are
botocore's; tests/unit/test_signer.py compares our signature with the one that botocore makes.
"""

import hmac
import time
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from botocore.exceptions import CredentialRetrievalError, NoCredentialsError

from accession.dynamodb.endpoint import find_credentials, must_refresh, renew_credentials

if TYPE_CHECKING:
    from botocore.signers import RequestSigner


class Signer:
    """Sign as "Create a signed AWS API request" says (AWS IAM User Guide).

    Credentials and the names of region and service are those of botocore's `signer`; the credentials are asked for each
    request.
    """

    def __init__(self, signer: "RequestSigner", url: str) -> None:
        address = urlsplit(url)
        self._signer, self._host, self._path = signer, address.netloc, quote(address.path or "/", safe="/~")
        self._held: tuple[Any, Any] = (None, None)  # credentials that expire, and what they were when last refreshed
        self._prepared: _Prepared | None = None

    @property
    def can_refresh(self) -> bool:
        """Tell whether the credentials expire and botocore can refresh them."""
        return hasattr(find_credentials(self._signer), "refresh_needed")

    def must_refresh(self, *, soon: bool) -> bool:
        """Return whether the credentials must be refreshed before the next request; with `soon`, ahead of time."""
        if not self.can_refresh:
            return False
        credentials = find_credentials(self._signer)
        return self._held[0] is not credentials or must_refresh(credentials, soon=soon)

    def refresh(self) -> None:
        """Refresh credentials that expire soon. Blocks: call it beside the event loop. Raises botocore's errors."""
        self._hold(renews=False)

    def renew(self) -> None:
        """Refresh the credentials, even if they do not seem to have expired. Blocks, as `refresh` does."""
        self._hold(renews=True)

    def _hold(self, *, renews: bool) -> None:
        credentials = find_credentials(self._signer)
        try:
            if renews:
                renew_credentials(credentials)
            self._held = (credentials, credentials.get_frozen_credentials())
        except RuntimeError as error:  # botocore: the new ones are expired already
            raise CredentialRetrievalError(provider=credentials.method, error_msg=str(error)) from error

    def sign(self, target: str, body: bytes) -> dict[str, str]:
        """Return the headers of a request, the signature among them. Never blocks. Raises NoCredentialsError."""
        credentials = find_credentials(self._signer)
        if credentials is None:
            raise NoCredentialsError
        # Asking credentials that expire may refresh them, which blocks.
        frozen = self._held[1] if self._held[0] is credentials else credentials.get_frozen_credentials()
        second = int(time.time())
        made_for = (second, target, frozen.access_key, frozen.secret_key, frozen.token)
        prepared = self._prepared
        if prepared is None or prepared.made_for != made_for:
            prepared = self._prepared = self._prepare(made_for, frozen)
        canonical = f"{prepared.canonical}{sha256(body).hexdigest()}"
        text = f"{prepared.text}{sha256(canonical.encode()).hexdigest()}"
        signature = hmac.digest(prepared.key, text.encode(), "sha256").hex()
        return prepared.headers | {"authorization": f"{prepared.authorization}{signature}"}

    def _prepare(self, made_for: tuple[Any, ...], frozen: Any) -> "_Prepared":
        second, target, *_ = made_for
        region, service = self._signer.region_name, self._signer.signing_name
        now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))
        headers = {
            "content-type": "application/x-amz-json-1.0",
            "host": self._host,
            "x-amz-date": now,
            **({"x-amz-security-token": frozen.token} if frozen.token else {}),
            "x-amz-target": target,
        }
        names = ";".join(headers)
        lines = "".join([f"{name}:{value}\n" for name, value in headers.items()])
        scope = f"{now[:8]}/{region}/{service}/aws4_request"
        key = f"AWS4{frozen.secret_key}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        return _Prepared(
            made_for=made_for,
            headers=headers,
            canonical=f"POST\n{self._path}\n\n{lines}\n{names}\n",
            text=f"AWS4-HMAC-SHA256\n{now}\n{scope}\n",
            key=key,
            authorization=f"AWS4-HMAC-SHA256 Credential={frozen.access_key}/{scope}, SignedHeaders={names}, Signature=",
        )


@dataclass(frozen=True, slots=True, repr=False)  # it holds secrets
class _Prepared:
    """The parts that all signatures of one second have in common."""

    made_for: tuple[Any, ...]  # second, target, credentials
    headers: dict[str, str]
    canonical: str
    text: str
    key: bytes
    authorization: str
