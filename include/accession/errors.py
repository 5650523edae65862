"""Every error that Accession raises on purpose.

    AccessionError
    ├── PermanentError        the same call fails again: never retried
    │   ├── ParamsError       a param of the run is unknown or out of bounds
    │   ├── MappingError      the mapping file is wrong: file, entity, field
    │   ├── SourceError       the SQLite file cannot be read, or is not what the mapping says
    │   ├── TargetError       a DynamoDB table or index is missing or keyed otherwise
    │   ├── AccessError       no credentials, or a permission is missing (named)
    │   ├── StoreError        the bucket is missing or does not honour conditional writes, an artifact is damaged
    │   ├── RefusedError      a policy or the state of the target says no
    │   ├── FencedError       another run, resume or undo owns the target now; this writer stopped
    │   ├── VerificationError the tables do not hold what the ID maps say
    │   └── ConflictError     an undo met work of the application, listed and kept; the target stays open
    └── TransientError        throttling, 5xx, dropped connections beyond the in-process retries: worth a task retry

A message is one sentence or two: what is wrong, where, what to do. It never holds a value marked sensitive.
"""


class AccessionError(Exception):
    """Root of the tree."""


class PermanentError(AccessionError):
    """The same call fails again; a retry is a waste."""


class ParamsError(PermanentError):
    """A param of the run is unknown or out of bounds."""


class MappingError(PermanentError):
    """The mapping file is wrong; names file, entity and field."""


class SourceError(PermanentError):
    """The SQLite file cannot be read, or is not what the mapping says."""


class TargetError(PermanentError):
    """A DynamoDB table or index is missing or keyed otherwise."""


class AccessError(PermanentError):
    """No credentials, or a permission is missing."""


class StoreError(PermanentError):
    """The bucket is missing or unfit, or an artifact is damaged."""


class RefusedError(PermanentError):
    """A policy or the state of the target says no."""


class FencedError(PermanentError):
    """Another run, resume or undo owns the target now."""


class VerificationError(PermanentError):
    """The tables do not hold what the ID maps say."""


class ConflictError(PermanentError):
    """An undo met work of the application: listed, kept, and the target stays open."""


class TransientError(AccessionError):
    """Throttling, 5xx or dropped connections beyond the in-process retries."""
