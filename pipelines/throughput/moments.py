"""`vop throughput moments`: does search in long files find the moment that search among clips finds?

H.264 files of ten minutes are made of toy's 240 test clips, all clips of a file of one size: every 25 s one of them, slowed
down to 10 s, and grey between. A clip and its reverse are in one file. Windows are those of `vop index` by default.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from pipelines.search.build import index
from pipelines.throughput.data import Measurement
from vop.index.search import Hit, Index
from vop.retriever import Retriever
from vop.scores.ranks import retrieval_metrics
from vop.toy.videos import SIZES, Clip, frames_of, plan, write_video

RATE, LONG, EVERY, FILE = 36, 10, 25, 600  # frames a second; seconds of a scene, from one to the next, of a file
SCENES = FILE // EVERY
OVERLAP = 0.5  # of a span with the true one, intersection over union
SHIFTS = (0.0, 2.5)  # seconds from a window's begin to a scene's
GREY = 128


@dataclass(frozen=True)
class Scene:
    """Where a clip is."""

    clip: Clip
    file: str
    start: float

    def overlap(self, hit: Hit) -> float:
        """Intersection over union with a moment, 0 in another file."""
        shared = min(hit.end, self.start + LONG) - max(hit.start, self.start)
        return max(0.0, shared) / (hit.end - hit.start + LONG - shared) if hit.video == self.file else 0.0


def measure(adapters: Sequence[str]) -> list[Measurement]:
    """Of each adapter, among clips and in long files whose scenes begin with a window or between two."""
    with tempfile.TemporaryDirectory(prefix="vop-moments-") as scratch:
        clips = _clips(Path(scratch) / "clips")
        scenes = {shift: list(_files(Path(scratch) / f"files-{shift}", list(clips), shift)) for shift in SHIFTS}
        rows = []
        for number, adapter in enumerate(adapters):
            alone = _among_clips(adapter, clips)
            rows.append(Measurement(f"{adapter}: R@1 among {len(clips)} clips", f"{alone:.1f}"))
            for shift, placed in scenes.items():
                folder = Path(scratch) / f"{number}-{shift}.index"
                rows += _in_files(adapter, folder, placed, shift, alone)
        return rows


def _clips(folder: Path) -> dict[Clip, Path]:
    """The test clips, each in a file of its own."""
    folder.mkdir()
    found = {}
    for clip in plan()[1]:
        found[clip] = folder / f"{clip.video_id}.mp4"
        write_video(found[clip], frames_of(clip), RATE)
    return found


def _files(folder: Path, clips: Sequence[Clip], shift: float) -> Iterator[Scene]:
    """Write the long files."""
    folder.mkdir()
    for number, size in enumerate(SIZES):
        pictures = {clip: made for clip in clips if (made := frames_of(clip))[0].shape[1::-1] == size}
        grey = np.full_like(next(iter(pictures.values()))[0], GREY)
        mine = list(pictures)
        for part, first in enumerate(range(0, len(mine), SCENES)):
            path, frames = folder / f"{number}-{part}.mp4", [grey] * (RATE * FILE)
            for place, clip in enumerate(mine[first : first + SCENES]):
                start = place * EVERY + shift
                held = RATE * LONG // len(pictures[clip])
                at = round(start * RATE)
                frames[at : at + RATE * LONG] = [picture for picture in pictures[clip] for _ in range(held)]
                yield Scene(clip, str(path), start)
            write_video(path, frames, RATE)


def _among_clips(adapter: str, clips: dict[Clip, Path]) -> float:
    retriever = Retriever.load(adapter)
    text_ME = retriever.embed_texts([clip.captions[0] for clip in clips])
    video_NE = retriever.embed_videos(clips.values())
    return retrieval_metrics(text_ME, video_NE, np.arange(len(clips)))["t2v/R1"]


def _in_files(adapter: str, to: Path, scenes: Sequence[Scene], shift: float, alone: float) -> Iterator[Measurement]:
    index(str(Path(scenes[0].file).parent), str(to), adapter)
    opened = Index.open(to)
    found = [opened.search(scene.clip.captions[0], top=1)[0] for scene in scenes]
    right = 100 * float(np.mean([scene.overlap(hit) >= OVERLAP for scene, hit in zip(scenes, found, strict=True)]))
    where = "at a window's begin" if not shift else f"{shift:g} s after it"
    what = f"{adapter}: R@1 in long files at IoU {OVERLAP}, scenes {where}"
    share = right / alone
    yield Measurement(what, f"{right:.1f}, {share:.2f} of the clips'", "0.8", share >= 0.8)
    if not shift:
        yield Measurement(f"{adapter}: time pairs in a file told apart", f"{100 * _told_apart(opened, scenes):.1f}%")


def _told_apart(opened: Index, scenes: Sequence[Scene]) -> float:
    """How often a caption of a clip or of its reverse fits its own scene best; equal scores count half."""
    pairs = [(one, other) for one, other in pairwise(scenes) if other.clip.reverse]
    points = []
    for scene, other in [*pairs, *((after, before) for before, after in pairs)]:
        own, wrong = (_score(opened, scene.clip.captions[0], place) for place in (scene, other))
        points.append((own > wrong) + 0.5 * (own == wrong))
    return float(np.mean(points))


def _score(opened: Index, text: str, scene: Scene) -> float:
    time = (scene.start, scene.start + LONG)
    return opened.search(text, top=1, path=scene.file, time=time)[0].score
