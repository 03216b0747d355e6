"""What a job takes with it: the three packages as they are installed here, and the files that its command names.

An allow-list, copied to a folder of its own: nothing that lies beside it (a `.env`, a key, a data set) can be sent by mistake.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

from vop.errors import VopError

PACKAGES = {  # beside their code, the data files that pyproject.toml gives them
    "vop": ("backbones/*.json", "backbones/*.safetensors", "paper/results.json", "recipes/*.yaml", "py.typed"),
    "pipelines": ("look.css", "report/*.j2", "serve/page.*", "py.typed"),
    "tune_spaces": (),
}
LIMIT = 100 * 2**20  # bytes that Ray takes as a working directory


class StageError(VopError, RuntimeError):
    """Files that cannot go with a job; the message names them."""


def stage(given: Mapping[str, Path]) -> Path:
    """A folder that holds the packages and the given files (their place in it -> where they are now).

    It is named by its content and stays in the machine's folder for temporary files, so that the same job can be submitted
    again. Raises StageError for a link out of a package, and for more than Ray takes.
    """
    files = dict(_packaged()) | {place: path.resolve() for place, path in given.items()}
    check_size({path: path.stat().st_size for path in files.values()})
    digest = hashlib.sha256()
    for place, path in sorted(files.items()):
        digest.update(f"{place}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    folder = Path(tempfile.gettempdir()).resolve() / f"vop-job-{os.getuid()}-{digest.hexdigest()[:16]}"
    if folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != os.getuid():
        _write(files, folder)
    return folder


def check_size(sizes: Mapping[Path, int]) -> None:
    """Raises StageError, with the largest files, for more than Ray takes."""
    if (total := sum(sizes.values())) > LIMIT:
        largest = sorted(sizes, key=lambda path: -sizes[path])[:5]
        names = ", ".join(f"{path} ({sizes[path] / 2**20:.0f} MiB)" for path in largest)
        raise StageError(
            f"the job would take {total / 2**20:.0f} MiB with it, Ray takes {LIMIT // 2**20}; the largest: {names}"
        )


def _packaged() -> Iterator[tuple[str, Path]]:
    for package, data in PACKAGES.items():
        spec = find_spec(package)
        assert spec is not None and spec.origin is not None
        root = Path(spec.origin).resolve().parent
        for pattern in ("**/*.py", *data):
            for path in sorted(root.glob(pattern)):
                if not path.resolve().is_relative_to(root):
                    raise StageError(
                        f"{path} is a link to {path.resolve()}, out of the package, and is not sent: copy the file"
                    )
                yield f"{package}/{path.relative_to(root)}", path.resolve()


def _write(files: Mapping[str, Path], folder: Path) -> None:
    """Whole or not at all, whoever else writes it at the same time."""
    scratch = Path(tempfile.mkdtemp(prefix="vop-job-", dir=folder.parent))
    try:
        for place, path in files.items():
            (scratch / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, scratch / place)
        scratch.rename(folder)
    except OSError as error:
        if folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != os.getuid():
            raise StageError(f"{folder} cannot be written: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
