"""A release is built only from a clean commit whose tag, version and CHANGELOG agree, and from hashes alone."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from conftest import REPO

VERSION = "1.2.3"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository that may be released."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(REPO / ".ci/check_release.py", tmp_path / ".ci")
    (tmp_path / "pyproject.toml").write_text(f'[project]\nversion = "{VERSION}"\n')
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n## {VERSION} (2026-11-25)\n\n## 1.2.2 (2026-01-01)\n")
    git(tmp_path, "init", "--quiet")
    commit(tmp_path)
    git(tmp_path, "tag", f"v{VERSION}")
    return tmp_path


def git(repository: Path, *arguments: str) -> None:
    who = (
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@example.com",
        "-c",
        "commit.gpgsign=false",
        "-c",
        "tag.gpgsign=false",
    )
    subprocess.run(["git", *who, "-C", repository, *arguments], check=True, capture_output=True)


def commit(repository: Path) -> None:
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message", "Change")


def check(repository: Path) -> tuple[int, str]:
    command = [sys.executable, "-B", str(repository / ".ci/check_release.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_a_release_that_agrees_is_built(repository: Path) -> None:
    assert check(repository) == (0, f"Release {VERSION}.\n")


def test_a_commit_without_the_tag_is_refused(repository: Path) -> None:
    git(repository, "tag", "--delete", f"v{VERSION}")
    assert check(repository) == (
        1, f"HEAD has no tag v{VERSION}, the version in pyproject.toml: git tag --annotate v{VERSION}.\n",
    )  # fmt: skip


def test_a_tag_of_another_version_is_refused(repository: Path) -> None:
    git(repository, "tag", "v9.9.9")
    code, said = check(repository)
    assert (code, "HEAD has the tag v9.9.9, but pyproject.toml has the version 1.2.3" in said) == (1, True)


@pytest.mark.parametrize(
    ("head", "sentence"),
    [
        (f"## {VERSION} (unreleased)", f"CHANGELOG.md has no date for {VERSION}"),
        (f"## {VERSION}", f"CHANGELOG.md has no date for {VERSION}"),
        ("## 1.2.4 (2026-11-25)", f"CHANGELOG.md begins with 1.2.4, not with {VERSION}"),
        ("Nothing yet.", f"CHANGELOG.md begins with no version, not with {VERSION}"),
    ],
)
def test_a_changelog_that_does_not_begin_with_the_version_is_refused(
    repository: Path, head: str, sentence: str
) -> None:
    (repository / "CHANGELOG.md").write_text(f"# Changelog\n\n{head}\n")
    commit(repository)
    git(repository, "tag", "--force", f"v{VERSION}")
    code, said = check(repository)
    assert (code, said.startswith(sentence), said.count("\n")) == (1, True, 1)


def test_uncommitted_files_are_refused(repository: Path) -> None:
    (repository / "forgotten").write_text("")
    assert check(repository) == (1, "1 files are not as they were committed: commit or remove them.\n")


@pytest.mark.parametrize("lock", sorted(REPO.glob("requirements*.lock")), ids=lambda path: path.name)
def test_every_package_of_a_lock_is_pinned_and_hashed(lock: Path) -> None:
    logical = lock.read_text().replace("\\\n", " ").splitlines()
    assert logical
    for line in logical:
        assert re.match(r"[A-Za-z0-9._-]+(\[.*\])?==\S+ ", line), line
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", line), line


def test_the_image_is_built_from_hashes_alone() -> None:
    text = (REPO / "Dockerfile").read_text()
    installs = re.findall(r"pip install [^&]*", text)
    assert installs
    assert [one for one in installs if "--require-hashes" not in one and "--offline" not in one] == []


def test_dependabot_watches_every_lock_and_image() -> None:
    updates = yaml.safe_load((REPO / ".github/dependabot.yml").read_text())["updates"]
    watched = {
        (one["package-ecosystem"], folder)
        for one in updates
        for folder in one.get("directories", [one.get("directory")])
    }
    assert watched == {("pip", "/"), ("pip", "/tests/bench"), ("docker", "/"), ("docker-compose", "/")}
