"""Check that a release may be built: HEAD's tag, the version in pyproject.toml and the head of CHANGELOG.md agree.

Print a line per disagreement and exit with 1; print the version and exit with 0 if there is none.
"""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path


def find_faults(repository: Path) -> Iterator[str]:
    """Yield a sentence for each reason why nothing can be released from this repository."""
    version = read_version(repository)
    tags = run_git(repository, "tag", "--points-at", "HEAD")
    if f"v{version}" not in tags:
        yield f"HEAD has no tag v{version}, the version in pyproject.toml: git tag --annotate v{version}."
    for tag in tags:
        if re.fullmatch(r"v\d.*", tag) and tag != f"v{version}":
            yield f"HEAD has the tag {tag}, but pyproject.toml has the version {version}: correct either."
    head = re.search(r"(?m)^## (\S+)(?: \((.*)\))?$", (repository / "CHANGELOG.md").read_text())
    if head is None or head[1] != version:
        yield f"CHANGELOG.md begins with {head[1] if head else 'no version'}, not with {version}: correct either."
    elif not re.fullmatch(r"\d{4}-\d{2}-\d{2}", head[2] or ""):
        yield f"CHANGELOG.md has no date for {version}: write ## {version} (2026-01-31)."
    if changed := run_git(repository, "status", "--porcelain"):
        yield f"{len(changed)} files are not as they were committed: commit or remove them."


def read_version(repository: Path) -> str:
    """Return the version in pyproject.toml, the only place that has it."""
    return str(tomllib.loads((repository / "pyproject.toml").read_text())["project"]["version"])


def run_git(repository: Path, *arguments: str) -> list[str]:
    """Return the lines that git prints."""
    command = ["git", "-C", str(repository), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()  # noqa: S603


def main() -> int:
    """Check the repository that this file is in."""
    repository = Path(__file__).parents[1]
    faults = list(find_faults(repository))
    print("\n".join(faults) or f"Release {read_version(repository)}.")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
