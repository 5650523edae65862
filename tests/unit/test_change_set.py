"""The parts of a change set: each line once, in order, in as many parts as rows and bytes need and Airflow takes."""

import gzip
from pathlib import Path

import pytest

from accession.artifacts import Part, PartWriter, change_set


def write(folder: Path, lines: list[bytes], rows_per_part: int) -> list[list[bytes]]:
    """Write the lines, and return them as each part has them."""
    parts: list[list[bytes]] = []

    def upload(part: Part, file: Path) -> None:
        assert part.part == len(parts)
        assert part.name == f"{part.part:05d}-{part.sha256[:16]}.jsonl.gz"
        parts.append(gzip.decompress(file.read_bytes()).splitlines(keepends=True))
        assert part.put == len(parts[-1])

    with PartWriter(folder / "part", rows_per_part, len(lines), upload) as writer:
        for line in lines:
            writer.add("put", line)
        writer.close()
    assert [line for part in parts for line in part] == lines
    return parts


@pytest.mark.parametrize(
    ("sizes", "parts"),
    [
        ([], [0]),
        ([100], [1]),
        ([101], [1]),
        ([50, 50], [2]),
        ([50, 51], [1, 1]),
        ([101, 1, 101], [1, 1, 1]),
        ([10] * 20, [10, 10]),
        ([1] * 20, [20]),
    ],
)
def test_a_part_ends_before_it_has_too_many_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[int], parts: list[int]
) -> None:
    monkeypatch.setattr(change_set, "PART_BYTES", 100)
    lines = [b"x" * (size - 1) + b"\n" for size in sizes]
    assert [len(part) for part in write(tmp_path, lines, 1000)] == parts


@pytest.mark.parametrize("count", [30, 200, 1000])
@pytest.mark.parametrize("rows_per_part", [1, 7, 100])
@pytest.mark.parametrize("sizes", [[10], [500], [5000], [1, 1, 5000]])
def test_there_are_never_more_parts_than_airflow_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[int], rows_per_part: int, count: int
) -> None:
    """Of thirty lines or more, whatever their size: what does not fit makes the parts longer."""
    monkeypatch.setattr(change_set, "PART_BYTES", 100)
    monkeypatch.setattr(change_set, "MAX_PARTS", 10)
    lines = [b"x" * (sizes[number % len(sizes)] - 1) + b"\n" for number in range(count)]
    parts = write(tmp_path, lines, rows_per_part)
    assert len(parts) <= 10
    assert max(map(len, parts)) <= max(rows_per_part, count // 10)
