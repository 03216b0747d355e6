"""Writes the videos and annotation files of the `toy` benchmark, in MSR-VTT's file formats.

Real H.264 files of several seconds, of different lengths, sizes and frame rates. Some videos come as a *time pair*: a clip
and its reverse, each with its own caption. All frames are coded alone, with a constant quantizer, and every drawing is
held for two frames ("on twos"), so that the 8, 12 or 24 uniformly sampled frames of a clip and of its reverse are the same
pictures bit for bit: a model that cannot see order cannot tell them apart.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from vop.claim import claimed
from vop.messages import Progress
from vop.places import told
from vop.toy.scenes import COLORS, LARGE, SHAPES, SMALL, TEXTURES, TONES, Look, Scene, Thing, Words, draw, moved

logger = logging.getLogger(__name__)
VERSION = "2"  # of what this file writes; it names the cache folder
SIZES = ((128, 96), (112, 84), (96, 96), (96, 128))  # width, height
RATES = (15, 20, 24, 25, 30)
LENGTHS = (72, 120)  # frames; 24 times an odd number, see above
TRAIN_PAIRS, TRAIN_SINGLES, TEST_PAIRS, TEST_SINGLES, CAPTIONS = 72, 136, 60, 120, 5


@dataclass(frozen=True)
class Event:
    """What happens: how it changes the thing at time s in 0..1, and its wordings; `backward` only if time has a direction."""

    name: str
    forward: tuple[str, ...]
    backward: tuple[str, ...] = ()


DIRECTED = (
    Event(
        "grow",
        ("grows", "is small at first and large at last", "starts little and ends big"),
        ("shrinks", "is large at first and small at last", "starts big and ends little"),
    ),
    Event(
        "appear",
        ("appears", "comes out of nothing", "is absent at first and there at last"),
        ("vanishes", "turns into nothing", "is there at first and absent at last"),
    ),
    Event(
        "turn",
        ("goes from {first} to {last}", "is {first} at first and {last} at last", "starts {first} and ends {last}"),
        ("goes from {last} to {first}", "is {last} at first and {first} at last", "starts {last} and ends {first}"),
    ),
    Event(
        "dawn",
        ("goes from the dark into the light", "is in the dark at first and in bright light at last", "sees it get bright"),
        ("goes from the light into the dark", "is in bright light at first and in the dark at last", "sees it get dark"),
    ),
)
UNDIRECTED = (
    Event("stay", ("stays where it is", "rests in place", "does not move")),
    Event("swing", ("swings from side to side", "slides to and fro", "goes to the side and back")),
    Event("bounce", ("bounces up and down", "hops on the spot", "goes up and comes back")),
    Event("pulse", ("pulses", "swells and shrinks again", "grows and goes back to its size")),
    Event("blink", ("blinks", "flashes on and off", "is gone for a moment")),
)


def state(scene: Scene, event: str, s: float) -> Scene:
    """The scene at time s in 0..1 of an event."""
    if event == "dawn":
        return replace(scene, brightness=TONES["dark"] + (TONES["bright"] - TONES["dark"]) * s)
    first = scene.things[0]
    wave = 0.5 - 0.5 * np.cos(2 * np.pi * s)  # 0, 1, 0
    change: dict[str, dict[str, float]] = {
        "grow": {"radius": SMALL * 0.8 + (LARGE * 1.3 - SMALL * 0.8) * s},
        "appear": {"opacity": float(np.clip(2.5 * s - 0.75, 0, 1))},
        "turn": {"turned": s},
        "stay": {},
        "swing": {"x": first.x + (-0.35 if first.x > 0 else 0.35) * wave},
        "bounce": {"y": first.y + (-0.35 if first.y > 0 else 0.35) * wave},
        "pulse": {"radius": first.radius * (1 + 0.9 * wave)},
        "blink": {"opacity": float(np.cos(4 * np.pi * s) > -0.2)},
    }
    return moved(scene, **change[event])


def caption(rng: np.random.Generator, scene: Scene, doing: str) -> str:
    """A caption as for a web video: who does what, on what, with some words around it."""
    words = Words(rng, second=0.8, drop=0.2)
    opener = words.pick(["", "in this clip ", "a video where ", "somebody filmed how ", "for a few seconds "])
    thing = scene.things[0]
    subject = words.thing(thing, sized=False)
    if thing.next_color:
        doing = doing.format(first=words.color(thing.color), last=words.color(thing.next_color))
    ground = "" if words.says(0.1) else " " + words.ground(scene)
    if words.says(0.3):
        return f"{opener}{subject}{ground} {doing}"
    return f"{opener}{subject} {doing}{ground}"


@dataclass(frozen=True)
class Clip:
    """One video to write: its scene and event, whether it is played backwards, its captions."""

    video_id: str
    scene: Scene
    event: Event
    reverse: bool
    captions: tuple[str, ...]
    seed: int


def plan(seed: int = 0) -> tuple[list[Clip], list[Clip]]:
    """All training and test clips; a pair's two stand side by side. In a split no two scenes share shape, color and texture."""
    rng = np.random.default_rng(seed)
    train = list(_clips(rng, TRAIN_PAIRS, TRAIN_SINGLES, CAPTIONS))
    test = list(_clips(rng, TEST_PAIRS, TEST_SINGLES, 1))
    order = np.random.default_rng(seed).permutation(len(train) + len(test))  # ids tell nothing of the split
    ids = iter(f"video{number}" for number in order)
    return [replace(clip, video_id=next(ids)) for clip in train], [replace(clip, video_id=next(ids)) for clip in test]


def _clips(rng: np.random.Generator, pairs: int, singles: int, captions: int) -> Iterator[Clip]:
    seen: set[tuple[str, ...]] = set()
    for number in range(pairs + singles):
        events = DIRECTED if number < pairs else UNDIRECTED
        event = events[number % len(events)]
        scene, clip_seed = _for_event(rng, _new_scene(rng, seen), event.name), int(rng.integers(2**31))
        for reverse in (False, True) if event.backward else (False,):
            # The same seed words both captions of a pair: they differ in the direction of time alone.
            texts = [
                caption(np.random.default_rng([clip_seed, k]), scene, (event.backward if reverse else event.forward)[k % 3])
                for k in range(clip_seed % 3, clip_seed % 3 + captions)
            ]
            yield Clip("", scene, event, reverse, tuple(texts), clip_seed)


def _for_event(rng: np.random.Generator, scene: Scene, event: str) -> Scene:
    """A thing that turns needs a second color; where it dawns the captions must not call the wall dark or bright."""
    if event == "turn":
        others = [color for color in COLORS if color != scene.things[0].color]
        return moved(scene, next_color=str(rng.choice(others)))
    return replace(scene, tone="") if event == "dawn" else scene


def _new_scene(rng: np.random.Generator, seen: set[tuple[str, ...]]) -> Scene:
    while True:
        thing = Thing(
            str(rng.choice(list(SHAPES))),
            str(rng.choice(list(COLORS))),
            float(rng.uniform(-0.22, 0.22)),
            float(rng.uniform(-0.22, 0.22)),
            float(rng.uniform(SMALL, LARGE)),
        )
        texture, tone = str(rng.choice(TEXTURES)), str(rng.choice(list(TONES)))
        key = (thing.shape, thing.color, texture)
        if key not in seen:
            seen.add(key)
            return Scene((thing,), texture, tone, int(rng.integers(2**31)))


def frames_of(clip: Clip) -> list[NDArray[np.uint8]]:
    """The clip's pictures [H, W, 3] in order, every drawing twice."""
    rng = np.random.default_rng(clip.seed)
    width, height = SIZES[rng.integers(len(SIZES))]
    count = int(rng.choice(LENGTHS)) // 2
    look = Look(
        contrast=float(rng.uniform(0.45, 0.65)),
        tint=(float(rng.uniform(0.55, 0.7)), float(rng.uniform(0.72, 0.87)), 1.0),  # a cold light
        vignette=float(rng.uniform(0.2, 0.5)),
        grain=0.03,
    )
    pictures = [draw(state(clip.scene, clip.event.name, index / (count - 1)), height, width, look) for index in range(count)]
    return [picture for picture in (pictures[::-1] if clip.reverse else pictures) for _ in range(2)]


def write_video(path: Path, pictures: Sequence[NDArray[np.uint8]], rate: int) -> None:
    """Encode pictures as H.264 in mp4: constant quantizer, every frame a key frame, yuv420p."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(rate))
        stream.options = {"qp": "26", "g": "1", "preset": "ultrafast"}
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.height, stream.width = pictures[0].shape[:2]
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def _write_clip(task: tuple[Path, Clip]) -> None:
    folder, clip = task
    rate = int(np.random.default_rng(clip.seed + 1).choice(RATES))
    with told(str(folder)):
        write_video(folder / f"{clip.video_id}.mp4", frames_of(clip), rate)


def toy_folder(root: Path) -> Path:
    """Where the benchmark is below `root`."""
    return root / f"toy-{VERSION}"


def write_toy(root: Path, clips: tuple[Sequence[Clip], Sequence[Clip]] | None = None) -> Path:
    """Write the benchmark below `root` unless it is there; returns its folder: `videos/` and the annotation files.

    The folder appears whole or not at all; who else wants it waits for it. Raises PlaceError where it cannot be written.
    """
    folder, new = toy_folder(root), not root.exists()
    if folder.is_dir():
        return folder
    try:
        with claimed(str(root)), told(str(root)):
            for left in root.glob(".toy-*"):  # of a command that was killed
                shutil.rmtree(left, ignore_errors=True)
            if not folder.is_dir():
                _write_toy(folder, *(clips or plan()))
    except BaseException:
        if new:
            with suppress(OSError):
                root.rmdir()
        raise
    return folder


def _write_toy(folder: Path, train: Sequence[Clip], test: Sequence[Clip]) -> None:
    with tempfile.TemporaryDirectory(prefix=".toy-", dir=folder.parent) as scratch:
        partial = Path(scratch) / folder.name
        (partial / "videos").mkdir(parents=True)
        tasks = [(partial / "videos", clip) for clip in (*train, *test)]
        with (
            ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool,
            Progress(logger, "writing toy videos", len(tasks)) as progress,
        ):
            for _ in pool.map(_write_clip, tasks, chunksize=8):
                progress.add()
        _write_annotations(partial, train, test)
        partial.rename(folder)


def _write_annotations(folder: Path, train: Sequence[Clip], test: Sequence[Clip]) -> None:
    sentences = [(clip.video_id, text) for clip in train for text in clip.captions]
    data = {
        "info": {"description": "toy benchmark, MSR-VTT's format"},
        "videos": [{"video_id": clip.video_id, "split": "train"} for clip in train],
        "sentences": [{"sen_id": i, "video_id": v, "caption": text} for i, (v, text) in enumerate(sentences)],
    }
    (folder / "toy_data.json").write_text(json.dumps(data, indent=0), encoding="utf-8")
    _write_csv(folder / "toy_train.csv", ["video_id"], [[clip.video_id] for clip in train])
    rows = [[f"ret{i}", f"toy{i}", clip.video_id, clip.captions[0]] for i, clip in enumerate(test)]
    _write_csv(folder / "toy_test.csv", ["key", "vid_key", "video_id", "sentence"], rows)
    pairs = [[clip.video_id, after.video_id] for clips in (train, test) for clip, after in pairwise(clips) if after.reverse]
    _write_csv(folder / "toy_time_pairs.csv", ["video_id", "reverse_id"], pairs)


def _write_csv(path: Path, header: list[str], rows: list[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
