"""Signature Version 4 for the one shape that a request to DynamoDB has: a POST of JSON to one URL.

botocore's signer is made for any request, and took a third of the CPU time of ours. Credentials, and their refreshing,
are botocore's; tests/unit/test_signer.py holds our signature against the one that botocore makes.
"""

import hmac
import time
from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from botocore.exceptions import NoCredentialsError

if TYPE_CHECKING:
    from botocore.signers import RequestSigner


class Signer:
    """Signs as "Create a signed AWS API request" says (AWS IAM User Guide). Safe for many threads.

    Credentials and the names of region and service are those of botocore's `signer`, asked anew for each request.
    """

    def __init__(self, signer: "RequestSigner", url: str) -> None:
        address = urlsplit(url)
        self._signer, self._host, self._path = signer, address.netloc, quote(address.path or "/", safe="/~")
        # Scope and secret of the last key, and the key: one tuple, since many threads read it.
        self._derived = ("", "", b"")

    def sign(self, target: str, body: bytes) -> dict[str, str]:
        """The headers of a request, the signature among them. Raises NoCredentialsError, and what a refresh raises."""
        region, service = self._signer.region_name, self._signer.signing_name
        credentials = self._signer.get_auth_instance(service, region, self._signer.signature_version).credentials
        if credentials is None:
            raise NoCredentialsError
        now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        headers = {
            "content-type": "application/x-amz-json-1.0",
            "host": self._host,
            "x-amz-date": now,
            **({"x-amz-security-token": credentials.token} if credentials.token else {}),
            "x-amz-target": target,
        }
        names = ";".join(headers)
        lines = "".join([f"{name}:{value}\n" for name, value in headers.items()])
        canonical = f"POST\n{self._path}\n\n{lines}\n{names}\n{sha256(body).hexdigest()}"
        scope = f"{now[:8]}/{region}/{service}/aws4_request"
        *known, key = self._derived
        if known != [scope, credentials.secret_key]:
            key = f"AWS4{credentials.secret_key}".encode()
            for part in scope.split("/"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._derived = (scope, credentials.secret_key, key)
        text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{sha256(canonical.encode()).hexdigest()}"
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        credential = f"{credentials.access_key}/{scope}"
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}"
        )
        return headers
