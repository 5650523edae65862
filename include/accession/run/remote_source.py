"""A source on S3, fetched as a local file."""

from pathlib import Path
from typing import Any

from accession.artifacts import fetch_object
from accession.source import settle_fetched


def fetch_source(client: Any, uri: str, folder: Path, *, is_checkpointed: bool) -> Path:
    """Download an s3:// source with its -wal and -journal, and complete it, so that it has each committed row.

    The source itself is only read. Raises StoreError or AccessError if it cannot be read, TransientError if it keeps
    changing, and SourceError if its -wal is missing and `is_checkpointed` is not set.
    """
    file = fetch_object(client, uri, folder / "source.db")
    settle_fetched(file, uri, is_checkpointed=is_checkpointed)
    return file
