"""`vop throughput index --clips N`: N tiny clips indexed by `vop index`, and again by one that is killed half-way."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from unittest import mock

import numpy as np

from pipelines.throughput.clips import write_clip, write_dataset
from pipelines.throughput.data import Measurement
from vop.index.table import Table, VideoIndexError, read_numbers, read_table
from vop.model.architecture import image_size
from vop.retriever import Retriever

MODEL = "ViT-toy"
MEMORY = "/dev/shm"  # for Ray's own files, which are no part of what is measured
BLOCK = 512  # bytes, in which the system counts what is written
ROUNDING = 2e-3  # of a number of float16, with other windows beside it in its batch


def measure(clips: int) -> list[Measurement]:
    """Bytes written and kept for so many clips, and whether a killed `vop index` that is run again ends with the same index."""
    with (
        tempfile.TemporaryDirectory(prefix="vop-folder-") as scratch,
        tempfile.TemporaryDirectory(prefix="vop-", dir=MEMORY if os.path.isdir(MEMORY) else None) as logs,
        mock.patch.dict(os.environ, {"RAY_TMPDIR": logs}),
    ):
        folder = Path(scratch)
        sources = [write_clip(folder / f"{seed}.mp4", seed, 12, size=(96, 72), frames=16) for seed in range(4)]
        write_dataset(folder / "videos", sources, clips)
        whole, cut = folder / "whole.index", folder / "cut.index"
        started, before = time.monotonic(), _written()
        subprocess.run(_command(folder, whole), check=True, stdout=subprocess.DEVNULL)
        minutes, written = (time.monotonic() - started) / 60, _written() - before
        done = _killed(_command(folder, cut), cut, clips // 2)
        subprocess.run(_command(folder, cut), check=True, stdout=subprocess.DEVNULL)
        size = sum(path.stat().st_size for path in whole.rglob("*") if path.is_file())
        one, other = read_table(str(whole)), read_table(str(cut))
        same = _same(one, other)
    experiment = Retriever.load(MODEL, device="cpu").experiment
    frames = experiment.frames.count * image_size(experiment.backbone) ** 2 * 3
    ratio = written / size
    return [
        Measurement("clips indexed", f"{len(one.found):,} in {minutes:.1f} min", f"{clips:,}", len(one.found) == clips),
        Measurement("bytes written, but for Ray's logs, over those of the index", f"{ratio:.2f}", "at most 1.2", ratio <= 1.2),
        Measurement("on disk, a clip", f"{size / clips:.0f} bytes; its {experiment.frames.count} frames as pixels {frames:,}"),
        Measurement(
            f"killed after {done:,} clips and run again: the same index", "yes" if same else "no", "yes", same and done < clips
        ),
    ]


def _command(folder: Path, index: Path) -> list[str]:
    return [sys.executable, "-m", "pipelines", "index", str(folder / "videos"), "--to", str(index), "--model", MODEL]


def _written() -> int:
    """Bytes that ended children have given to disks until now."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_oublock * BLOCK


def _killed(command: list[str], index: Path, clips: int) -> int:
    """SIGKILL for a command and all that it started as soon as an index holds so many clips; how many it holds then."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        while process.poll() is None and _held(index) < clips:
            time.sleep(0.2)
    finally:
        with suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return _held(index)


def _held(index: Path) -> int:
    try:
        return len(read_table(str(index)).found)
    except VideoIndexError:  # not yet
        return 0


def _same(one: Table, other: Table) -> bool:
    """Whether two indexes hold the same windows of the same files, to rounding."""
    if {path: file.content for path, file in one.files.items()} != {path: file.content for path, file in other.files.items()}:
        return False
    numbers, others = (read_numbers(table, "vectors", table.found) for table in (one, other))
    return all(
        np.array_equal(one.held[each].start_N, other.held[each].start_N)
        and np.allclose(numbers[each], others[each], atol=ROUNDING)
        for each in one.found
    )
