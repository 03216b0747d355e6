"""What a run says of its source: this project's commit or version, whatever repository lies around it."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from pipelines import environment

SOURCE = Path(environment.__file__).read_text(encoding="utf-8")
NAMED = ["-c", "user.name=a", "-c", "user.email=a@example.org"]


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *NAMED, *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def project(folder: Path) -> Path:
    """A folder with this file of the project and nothing else."""
    for package in ("pipelines", "vop", "tune_spaces"):
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").touch()
    (folder / "pipelines" / "environment.py").write_text(SOURCE, encoding="utf-8")
    return folder


def committed(folder: Path) -> str:
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "one")
    return git(folder, "rev-parse", "--short=10", "HEAD")


def commit_of(folder: Path, **variables: str) -> str:
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); from pipelines import environment as e; print(e.commit())"
    env = {"PATH": "/usr/bin:/bin:/usr/local/bin", **variables}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=env, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.usefixtures("slow")
def test_the_commit_of_a_clone_and_what_makes_it_dirty(tmp_path: Path) -> None:
    head = committed(project(tmp_path))
    assert commit_of(tmp_path) == commit_of(tmp_path, VOP_COMMIT="other") == head
    (tmp_path / "notes.py").touch()
    (tmp_path / "vop" / "notes.txt").touch()
    assert commit_of(tmp_path) == head, "neither is code of ours"
    (tmp_path / ".git" / "info" / "exclude").write_text("mine.py\n")
    (tmp_path / "vop" / "prompts").mkdir()
    (tmp_path / "vop" / "prompts" / "mine.py").touch()
    assert commit_of(tmp_path) == f"{head}-dirty", "a kind that git ignores is a kind"
    (tmp_path / "vop" / "prompts" / "mine.py").unlink()
    assert commit_of(tmp_path) == head
    (tmp_path / "vop" / "__init__.py").write_text("x = 1\n")
    assert commit_of(tmp_path) == f"{head}-dirty"


@pytest.mark.usefixtures("slow")
def test_a_repository_around_it_is_not_asked(tmp_path: Path) -> None:
    """As in a virtual environment within somebody's repository, whose files are even committed."""
    inside = project(tmp_path / ".venv" / "site-packages")
    head = committed(tmp_path)
    assert commit_of(inside) == metadata.version("vop") != head
    assert commit_of(inside, VOP_COMMIT="abc") == "abc", "a job is told"
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").touch()
    wrong = committed(other)
    mine = project(tmp_path / "mine")
    right = committed(mine)
    assert commit_of(mine, GIT_DIR=str(other / ".git"), GIT_WORK_TREE=str(other)) == right != wrong, "as a hook sets them"


def test_a_clone_without_git_is_not_called_a_release(tmp_path: Path) -> None:
    committed(project(tmp_path))
    assert commit_of(tmp_path, PATH="/nowhere") == "unknown"


def test_a_library_that_is_not_there_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    found = metadata.version

    def version(name: str) -> str:
        if name == "decord2":
            raise metadata.PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr(metadata, "version", version)
    said = environment.environment()
    assert said["version.decord2"] == "absent" and said["version.torch"] == found("torch")
