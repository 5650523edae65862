"""The documents are up to date, and everything that they point to is there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]


def find_documents() -> list[Path]:
    """Return every Markdown file that is committed or about to be."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    return sorted(path for line in done.stdout.splitlines() if (path := REPO / line).exists())


DOCUMENTS = find_documents()
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
# Files, folders and modules of the house as prose cites them: `include/accession/run/plan.py`.
CITED = re.compile(r"`((?:include|plugins|dags|tests|docs|\.ci)/[\w./-]+)`")
ELSEWHERE = re.compile(r"\.\./shared|/work/|/root/|/home/(?!me/)|/tmp/")


def name_file(path: Path) -> str:
    return str(path.relative_to(REPO))


def make_anchor(heading: str) -> str:
    """Return the anchor that GitHub makes of a heading."""
    return re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-")


def test_there_are_documents() -> None:
    assert {"README.md", "CHANGELOG.md", "docs/architecture.md"} <= {name_file(path) for path in DOCUMENTS}


def test_the_generated_documents_are_up_to_date() -> None:
    command = [sys.executable, "docs/generate.py", "--check"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_file)
def test_every_link_leads_somewhere(document: Path) -> None:
    for link in LINK.findall(FENCE.sub("", document.read_text())):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), f"{link} is not there"
        if anchor:
            headings = HEADING.findall(FENCE.sub("", target.read_text()))
            assert anchor in {make_anchor(heading) for heading in headings}, f"{link}: there is no such heading"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_file)
def test_every_file_that_a_document_names_is_in_the_repository(document: Path) -> None:
    text = document.read_text()
    assert [path for path in CITED.findall(text) if not (REPO / path).exists()] == []
    assert ELSEWHERE.findall(text) == []


def test_make_help_lists_every_target() -> None:
    makefile = (REPO / "Makefile").read_text()
    targets = set(re.findall(r"^\.PHONY: (\S+)$", makefile, re.MULTILINE))
    done = subprocess.run(["make", "help"], cwd=REPO, capture_output=True, text=True, check=True)
    listed = dict(re.findall(r"^  make (\S+)\s+(\S.*)$", done.stdout, re.MULTILINE))
    assert listed.keys() == targets
    undeclared = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE)) - targets
    assert undeclared == set(), "a target that is no file belongs to .PHONY"
