"""The identity of a row: digests of what tells it from another row that has its key. Pure."""


def is_same_thing(recorded: bytes, found: bytes) -> bool:
    """Tell whether two identity digests are of the same thing: they share an alternative, or one has nothing to
    compare."""
    if recorded == found or not recorded.strip(b"\0") or not found.strip(b"\0"):
        return True
    return any(one.strip(b"\0") for one in _split(recorded) & _split(found))


def _split(digests: bytes) -> set[bytes]:
    return {digests[i : i + 8] for i in range(0, len(digests), 8)}
