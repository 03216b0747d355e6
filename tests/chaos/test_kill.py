"""`vop prepare` killed with SIGKILL, with all of its Ray, at random moments: what is finished stays, the rest is made good.

VOP_KILLS says how often it is killed; each kill costs a start of Ray. VOP_SEED repeats the moments of a run that failed.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from random import Random

import pyarrow.parquet as pq

from pipelines.data.prepare import prepare
from pipelines.data.store import read_manifest
from pipelines.throughput.clips import write_clip, write_dataset
from tests.support.commands import command, kill_all, wait_for
from tests.support.recipe import recipe
from vop.config import Experiment

KILLS = int(os.environ.get("VOP_KILLS", "2"))
CLIPS = 60 * max(KILLS, 3)
SIZE = 64  # the toy backbone's


def test_a_job_killed_at_random_moments_ends_with_the_same_store(chaos: Random, ray_cluster: None, tmp_path: Path) -> None:
    sources = [write_clip(tmp_path / f"{seed}.mp4", seed, 250, size=(320, 240), frames=200) for seed in range(2)]
    bad = write_dataset(tmp_path / "videos", sources, CLIPS, bad=0.05)
    allowed = "data.max_failed_fraction=0.1"
    undisturbed = prepare(recipe(tmp_path / "videos", tmp_path / "undisturbed", allowed), SIZE)
    experiment = recipe(tmp_path / "videos", tmp_path / "killed", allowed)
    frames = Path(undisturbed.folder.replace("undisturbed", "killed")) / "frames"
    kept: dict[Path, int] = {}
    for _ in range(KILLS):
        kept |= killed_run(experiment, frames, more=chaos.randint(0, 2), delay=chaos.uniform(0, 0.5), log=tmp_path / "log")
    held = sum(pq.ParquetFile(shard).num_row_groups for shard in frames.glob("*.parquet"))
    done = prepare(experiment, SIZE)
    assert held < CLIPS
    print(f"{KILLS} kills, {held} of {CLIPS} clips were stored by the killed runs")
    assert Path(done.folder) == frames.parent
    assert done.decoded == CLIPS - held, "only what no finished shard holds is decoded again"
    assert {shard: shard.stat().st_mtime_ns for shard in kept} == kept, "finished shards are left alone"
    assert content(frames) == content(Path(undisturbed.folder) / "frames")
    assert len(content(frames)) == CLIPS and len(done.failed) == sum(bad.values())
    assert done.failed == undisturbed.failed
    assert read_manifest(done.folder) == read_manifest(undisturbed.folder)


def killed_run(experiment: Experiment, frames: Path, more: int, delay: float, log: Path) -> dict[Path, int]:
    """Start `vop prepare`, kill all of it `delay` seconds after `more` shards are new; the finished shards and their ages."""
    flat = [f"{key}={value}" for key, value in experiment.flat().items() if value not in (None, "")]
    (log.parent / "recipe.yaml").write_text("name: test\n")
    before = len(list(frames.glob("*.parquet")))
    with command(["prepare", str(log.parent / "recipe.yaml"), *flat], log) as process:
        wait_for(lambda: len(list(frames.glob("*.parquet"))) >= before + more, process, log)
        time.sleep(delay)
        kill_all(process)
        assert process.wait() == -signal.SIGKILL, "it was still at work"
        time.sleep(0.5)
    return {shard: shard.stat().st_mtime_ns for shard in frames.glob("*.parquet")}


def content(frames: Path) -> list[tuple[object, ...]]:
    """All rows of all shards, in an order of their own."""
    rows = [row for shard in frames.glob("*.parquet") for row in pq.read_table(shard).to_pylist()]
    return sorted(tuple(str(row[name]) if name != "frames" else hash(tuple(row[name] or ())) for name in row) for row in rows)
