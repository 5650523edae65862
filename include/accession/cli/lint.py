"""Check a mapping against a source, without Airflow and without AWS: `make lint-mapping`."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from accession.mapping import check_mappings, find_line
from accession.run import Tally, lint_mapping


def lint_files(paths: Sequence[Path], source: Path) -> int:
    """Print what is wrong in a mapping, and which rows of a source would be rejected, with lines of the file.

    `paths` are the mapping's files, of which there must be one. Return 1 if the mapping is wrong, else 0. Raises
    SourceError if the source cannot be read.
    """
    [path, *_] = paths
    sound, errors = check_mappings(paths)
    if errors and not errors[0].faults:
        raise errors[0]
    if errors:
        _print(path, errors[0].faults)
        return 1
    with TemporaryDirectory(prefix="accession-") as folder:
        found = lint_mapping(sound[path], source, Path(folder))
    _print(path, found.faults)
    for name, tally in found.tallies.items():
        _print(path, _show_rejects(name, tally))
    if found.faults:
        return 1
    rows, rejected = (sum(getattr(tally, name) for tally in found.tallies.values()) for name in ("rows", "rejected"))
    print(f"{path}: it fits the source. Of {rows:,} rows, {rejected:,} would be rejected.")
    return 0


def _show_rejects(name: str, tally: Tally) -> Iterator[str]:
    for number, reason in sorted(tally.rejects.values(), reverse=True):
        yield (
            f"entities.{name}: {number:,} of {tally.rows:,} rows would be rejected ({reason}): correct the rows or the "
            "mapping, or allow rejects with max_rejects."
        )


def _print(path: Path, findings: Iterable[str]) -> None:
    """Print each finding behind the place of its field."""
    for finding in findings:
        line = find_line(path, finding)
        print(f"{path}:{line}: {finding}" if line is not None else f"{path}: {finding}")
