"""Every error that Accession raises on purpose.

    AccessionError
    ├── PermanentError        the same call fails again: never retried
    │   ├── ParamsError       a param of the run is unknown or out of bounds
    │   ├── ConfigurationError  a setting of the deployment is wrong
    │   ├── MappingError      the mapping file is wrong: file, entity, field
    │   ├── SourceError       the SQLite file cannot be read, or does not match the mapping
    │   ├── TargetError       a DynamoDB table or index is missing, or has other keys than the mapping says
    │   ├── AccessError       AWS refuses a request: a permission is missing (the message names it)
    │   │   └── CredentialsError  there are no credentials, or none that work: log in again, then resume
    │   ├── StoreError        the bucket is missing or ignores conditional writes, or an artifact is damaged
    │   │   └── NotFoundError the run or target that was asked for does not exist
    │   ├── RefusedError      a policy or the state of the target forbids it
    │   ├── FencedError       another run, resume or undo owns the target now, so this writer stopped
    │   ├── VerificationError the tables differ from the ID maps
    │   └── ConflictError     an undo found items that the application changed: it kept them, and the target stays open
    └── TransientError        throttling, 5xx or dropped connections outlasted the in-process retries: retry the task

A message is one or two sentences: what is wrong, where, and what to do. It never contains a value marked sensitive.
"""

from collections.abc import Iterable


class AccessionError(Exception):
    """Root of the tree."""


class PermanentError(AccessionError):
    """The same call would fail again, so it is never retried."""


class ParamsError(PermanentError):
    """A param of the run is unknown or out of bounds."""


class ConfigurationError(PermanentError):
    """A setting of the deployment is wrong. The message names the option."""


class MappingError(PermanentError):
    """The mapping file is wrong. The message names file, entity and field; `faults` are those of the fields alone."""

    def __init__(self, message: str, faults: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.faults = tuple(faults)


class SourceError(PermanentError):
    """The SQLite file cannot be read, or does not match the mapping."""


class TargetError(PermanentError):
    """A DynamoDB table or index is missing, or has other keys than the mapping says."""


class AccessError(PermanentError):
    """AWS refuses a request: a permission is missing, or the credentials are."""


class CredentialsError(AccessError):
    """There are no credentials, or they do not work any more. With others, a run can be resumed where it stopped."""


class StoreError(PermanentError):
    """The bucket is missing or unfit, or an artifact is damaged."""


class NotFoundError(StoreError):
    """The run or target that was asked for does not exist."""


class RefusedError(PermanentError):
    """A policy or the state of the target forbids it."""


class FencedError(PermanentError):
    """Another run, resume or undo owns the target now."""


class VerificationError(PermanentError):
    """The tables differ from the ID maps."""


class ConflictError(PermanentError):
    """An undo found items that the application changed. They are listed and kept, and the target stays open."""


class TransientError(AccessionError):
    """Throttling, 5xx or dropped connections outlasted the in-process retries."""
