"""The cache of ID maps for the audit page: a download keeps nobody waiting who wants another map."""

import threading
from pathlib import Path
from typing import Any

import boto3
import pytest

from accession.artifacts import Store, create_id_map, finish_id_map
from accession.audit import open_cached_map
from accession.digest import hash_file
from conftest import Library


def test_a_map_opens_while_another_one_is_downloaded(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    client = boto3.client("s3")
    store = Store(client, library.bucket, "book_library", library.environment)
    digests = {}
    for name, affinity in (("slow", "INTEGER"), ("fast", "TEXT")):
        finish_id_map(create_id_map(tmp_path / name, affinity))
        store.upload(name, tmp_path / name)
        digests[name] = hash_file(tmp_path / name)
    begun, go_on, opened = threading.Event(), threading.Event(), list[str]()

    def hold_up(params: dict[str, Any], **_: Any) -> None:
        if params["Key"].endswith("slow"):
            begun.set()
            go_on.wait(60)

    def open_map(name: str) -> None:
        with open_cached_map(store, name, digests[name]) as connection:
            assert connection.execute("SELECT count(*) FROM id_map").fetchone() == (0,)
            opened.append(name)

    client.meta.events.register_first("before-parameter-build.s3.GetObject", hold_up)
    slow, fast = (threading.Thread(target=open_map, args=(name,)) for name in ("slow", "fast"))
    slow.start()
    try:
        assert begun.wait(30)
        fast.start()
        fast.join(30)
        assert opened == ["fast"]
    finally:
        go_on.set()
        slow.join(30)
    assert opened == ["fast", "slow"]
    assert sorted(file.name for file in tmp_path.glob("accession-id-maps-*/*")) == sorted(
        f"{digest}.db" for digest in digests.values()
    )
