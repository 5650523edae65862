"""What every AWS client of ours shares: time limits, and which errors mean that nobody is logged in."""

from botocore.exceptions import (
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    SSOError,
    TokenRetrievalError,
)

CONNECT_SECONDS = 3
READ_SECONDS = 15
REQUEST_TIMEOUT_SECONDS = CONNECT_SECONDS + READ_SECONDS
"""The longest that one request to DynamoDB may be in flight. Undo and resume wait for it after they raise the epoch."""

# Nobody is logged in, or not any more.
NO_CREDENTIALS = (
    NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, TokenRetrievalError, SSOError,
)  # fmt: skip
