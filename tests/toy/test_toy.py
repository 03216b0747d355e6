"""The toy world: its plan, its words, and that a clip and its reverse are the same pictures bit for bit."""

from __future__ import annotations

import csv
import hashlib
import json
import resource
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vop.benchmarks._msrvtt import read_records
from vop.places import PlaceError
from vop.toy import scenes, videos
from vop.toy.scenes import COLORS, SHAPES, Scene, Thing, draw, random_still, still_caption
from vop.toy.videos import Clip, frames_of, plan, write_toy
from vop.video.frames import probe, read_frames

Split = tuple[list[Clip], list[Clip]]


@pytest.fixture(scope="module")
def planned() -> Split:
    return plan()


def time_pairs(clips: list[Clip]) -> list[tuple[Clip, Clip]]:
    """The clips that stand before a reverse, with it."""
    return [(clip, after) for clip, after in pairwise(clips) if after.reverse]


# --- the plan -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("slow")
def test_a_plan_depends_on_its_seed_alone(planned: Split) -> None:
    np.random.seed(5)
    assert plan() == planned
    assert plan(1) != planned


def test_a_plan_holds_what_the_constants_say(planned: Split) -> None:
    train, test = planned
    assert (len(train), len(test)) == (2 * 72 + 136, 2 * 60 + 120)
    assert (len(time_pairs(train)), len(time_pairs(test))) == (72, 60)
    assert {len(clip.captions) for clip in train} == {5} and {len(clip.captions) for clip in test} == {1}
    ids = [clip.video_id for clip in (*train, *test)]
    assert set(ids) == {f"video{number}" for number in range(520)}
    assert len({int(clip.video_id[5:]) < 280 for clip in train}) == 2, "ids tell the split"
    assert {clip.event.name for clip in test} == {event.name for event in (*videos.DIRECTED, *videos.UNDIRECTED)}


def test_a_pair_differs_in_the_direction_of_time_alone(planned: Split) -> None:
    for clip, after in (*time_pairs(planned[0]), *time_pairs(planned[1])):
        assert not clip.reverse and (clip.scene, clip.event, clip.seed) == (after.scene, after.event, after.seed)
        for said, reversed_said in zip(clip.captions, after.captions, strict=True):
            assert said != reversed_said
            if clip.event.name == "turn":  # the same colors, the other way round
                assert sorted(said.split()) == sorted(reversed_said.split())
                continue
            doing = next(words for words in clip.event.forward if words in said)
            undoing = clip.event.backward[clip.event.forward.index(doing)]
            assert said.replace(doing, undoing) == reversed_said


def test_captions_name_the_colors_of_a_turn_in_the_order_seen(planned: Split) -> None:
    turns = [clip for clip in planned[0] if clip.event.name == "turn"]
    assert turns
    for clip in turns:
        thing = clip.scene.things[0]
        first, last = (thing.color, thing.next_color) if not clip.reverse else (thing.next_color, thing.color)
        for said in clip.captions:
            words = said.split()
            before, after = (next(i for i, w in enumerate(words) if w in (c, scenes.COLORS[c][0])) for c in (first, last))
            assert before < after, said


@pytest.mark.parametrize("split", [0, 1], ids=["train", "test"])
def test_no_two_scenes_of_a_split_look_alike(planned: Split, split: int) -> None:
    scenes_of = [clip.scene for clip in planned[split] if not clip.reverse]
    looks = {(scene.things[0].shape, scene.things[0].color, scene.texture) for scene in scenes_of}
    assert len(looks) == len(scenes_of)


def test_only_events_with_a_direction_have_one() -> None:
    """An undirected clip looks the same from both ends, a directed one does not."""
    scene = Scene((Thing("circle", "red", 0.1, 0.1),), "plain", "dark")
    for event in (*videos.DIRECTED, *videos.UNDIRECTED):
        ends = [videos.state(scene, event.name, s) for s in (0.1, 0.9)]
        keys = ("x", "y", "radius", "opacity", "turned")
        same = all(np.isclose(getattr(ends[0].things[0], key), getattr(ends[1].things[0], key)) for key in keys)
        same &= ends[0].brightness == ends[1].brightness
        assert same != bool(event.backward), event.name
        assert len(event.backward) in (0, len(event.forward))


@pytest.mark.parametrize(("event", "key"), [("grow", "radius"), ("appear", "opacity"), ("turn", "turned")])
def test_a_directed_event_goes_where_its_words_say(event: str, key: str) -> None:
    scene = Scene((Thing("circle", "red"),), "plain", "dark")
    first, last = (getattr(videos.state(scene, event, s).things[0], key) for s in (0.0, 1.0))
    assert last > first


def test_it_dawns_from_dark_to_bright() -> None:
    scene = Scene((Thing("circle", "red"),), "plain", "")
    first, last = (videos.state(scene, "dawn", s).brightness for s in (0.0, 1.0))
    assert (first, last) == (pytest.approx(scenes.TONES["dark"]), pytest.approx(scenes.TONES["bright"]))
    dark, bright = (scenes.draw(videos.state(scene, "dawn", s), 32, 32).mean() for s in (0.0, 1.0))
    assert bright > dark + 50


# --- the files ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(planned: Split) -> Split:
    """A time pair and a single for each split; the pairs are of both lengths."""
    chosen = []
    for clips, length in zip(planned, videos.LENGTHS, strict=True):
        pair = next(pair for pair in time_pairs(clips) if len(frames_of(pair[0])) == length)
        chosen.append([*pair, clips[-1]])
    return chosen[0], chosen[1]


@pytest.fixture(scope="module")
def written(small: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy(tmp_path_factory.mktemp("toy"), small)


@pytest.mark.usefixtures("slow")
def test_msrvtts_reader_reads_what_is_written(written: Path, small: Split) -> None:
    records = read_records(written / "videos", [written / "toy_data.json"], written / "toy_train.csv", written / "toy_test.csv")
    assert [(r.video_id, r.captions, r.split) for r in records] == [
        (clip.video_id, clip.captions, split) for split, clips in zip(("train", "test"), small, strict=True) for clip in clips
    ]
    assert all(Path(record.path).is_file() for record in records)
    with (written / "toy_time_pairs.csv").open(newline="") as file:
        pairs = [(row["video_id"], row["reverse_id"]) for row in csv.DictReader(file)]
    assert pairs == [(clips[0].video_id, clips[1].video_id) for clips in small]


@pytest.mark.parametrize("count", [8, 12, 24])
@pytest.mark.parametrize("split", [0, 1], ids=["72-frames", "120-frames"])
def test_a_reverse_holds_the_same_pictures_bit_for_bit(written: Path, small: Split, split: int, count: int) -> None:
    clip, reverse, _ = small[split]
    assert probe(written / "videos" / f"{clip.video_id}.mp4").frames == videos.LENGTHS[split]
    forth, back = (read_frames(written / "videos" / f"{c.video_id}.mp4", count, 64) for c in (clip, reverse))
    assert forth.mask_F.all() and forth.pixels_FHWC.shape == (count, 64, 64, 3)
    assert np.array_equal(forth.pixels_FHWC[::-1], back.pixels_FHWC)
    assert not np.array_equal(forth.pixels_FHWC, back.pixels_FHWC)


def test_the_file_holds_the_pictures_that_were_drawn(written: Path, small: Split) -> None:
    clip = small[0][0]
    drawn = frames_of(clip)
    found = read_frames(written / "videos" / f"{clip.video_id}.mp4", 8, min(drawn[0].shape[:2]), decoder="pyav")
    top, left = ((side - found.pixels_FHWC.shape[1]) // 2 for side in drawn[0].shape[:2])
    side = found.pixels_FHWC.shape[1]
    for pixels, index in zip(found.pixels_FHWC, found.indices_F, strict=True):
        expected = drawn[index][top : top + side, left : left + side]
        assert np.abs(pixels.astype(int) - expected).mean() < 8


def test_a_second_call_writes_nothing(written: Path, small: Split) -> None:
    before = {path: path.stat().st_mtime_ns for path in (written, *written.rglob("*"))}
    assert len(before) == 1 + 1 + 4 + 6
    assert write_toy(written.parent, small) == written
    assert {path: path.stat().st_mtime_ns for path in (written, *written.rglob("*"))} == before
    assert list(written.parent.iterdir()) == [written], "scratch is left behind"


@pytest.mark.usefixtures("slow")
def test_a_disk_without_room_is_a_sentence_and_leaves_nothing(small: Split, tmp_path: Path) -> None:
    """The processes that write have the limit of this one, which stands for a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**12, old[1]))
    try:
        with pytest.raises(PlaceError, match=r"/videos: a file may not grow so large"):
            write_toy(tmp_path, small)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("slow")
def test_several_at_once_write_it_once_and_remove_what_a_killed_one_left(
    small: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []
    write = videos._write_toy
    monkeypatch.setattr(videos, "_write_toy", lambda folder, *clips: written.append(folder) or write(folder, *clips))
    (tmp_path / ".toy-killed" / "videos").mkdir(parents=True)
    with ThreadPoolExecutor(3) as pool:
        folders = list(pool.map(lambda _: write_toy(tmp_path, small), range(3)))
    assert len(written) == 1 and set(folders) == set(written) and len(list((folders[0] / "videos").iterdir())) == 6
    assert {path.name for path in tmp_path.iterdir()} == {folders[0].name}


# --- stills -------------------------------------------------------------------------------------------------------


def test_a_still_and_what_is_said_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Scene] = []

    def remember(rng: np.random.Generator, things: int) -> Scene:
        drawn.append(made(rng, things))
        return drawn[-1]

    made = scenes.random_scene
    monkeypatch.setattr(scenes, "random_scene", remember)
    rng = np.random.default_rng(0)
    for _ in range(60):
        image, text = random_still(rng, 48)
        assert image.shape == (48, 48, 3) and image.dtype == np.uint8 and image.std() > 0
        words, scene = text.split(), drawn[-1]
        known = {name: color for color, (second, _) in COLORS.items() for name in (color, second)}
        assert sorted(known[word] for word in words if word in known) == sorted(thing.color for thing in scene.things)
        shapes = {name: shape for shape, second in SHAPES.items() for name in (shape, second)}
        assert sorted(shapes[word] for word in words if word in shapes) == sorted(thing.shape for thing in scene.things)
    assert {len(scene.things) for scene in drawn} == {0, 1, 2}


def test_stills_depend_on_the_generator_alone() -> None:
    (first, said), (again, said_again) = (random_still(np.random.default_rng(3), 32) for _ in range(2))
    assert np.array_equal(first, again) and said == said_again
    assert not np.array_equal(first, random_still(np.random.default_rng(4), 32)[0])


@pytest.mark.parametrize(("x", "y", "word"), [(-0.3, 0, "left"), (0.3, 0, "right"), (0, -0.3, "top"), (0, 0.3, "bottom")])
def test_sides_are_said_as_they_are_drawn(x: float, y: float, word: str) -> None:
    scene = Scene((Thing("square", "red", x, y, 0.15),), "plain", "gray")
    rows, columns = np.nonzero((np.abs(draw(scene, 60, 60) - np.array(COLORS["red"][1]) * 255) < 2).all(-1))
    center = rows.mean() - 29.5 if word in ("top", "bottom") else columns.mean() - 29.5
    assert center < -10 if word in ("top", "left") else center > 10
    said = {w for seed in range(30) for w in still_caption(np.random.default_rng(seed), scene).split()}
    assert {"left", "right", "top", "bottom"} & said == {word}


@pytest.mark.parametrize(("dx", "dy", "sides"), [(0.5, 0.1, "left"), (0.1, 0.5, "above top")])
def test_the_relation_of_two_things(dx: float, dy: float, sides: str) -> None:
    near, far = Thing("square", "red", -dx / 2, -dy / 2), Thing("circle", "blue", dx / 2, dy / 2)
    opposite = {"left": "right", "above top": "below bottom"}[sides]
    for seed in range(30):
        said = still_caption(np.random.default_rng(seed), Scene((near, far), "plain", "gray")).split()
        first_is_near = next(word for word in said if word in ("red", "crimson", "blue", "azure")) in ("red", "crimson")
        spoken = {"left", "right", "above", "below", "top", "bottom"} & set(said)
        assert spoken and spoken <= set((sides if first_is_near else opposite).split())


# --- frozen -------------------------------------------------------------------------------------------------------

GOLDEN = Path(__file__).parent / f"toy-{videos.VERSION}.json"


def golden() -> dict[str, Any]:
    """What numbers on toy rest on: the plan's texts, and pictures of each event and each texture as 3 x 3 mean colors."""
    train, test = plan()
    said = json.dumps([[c.video_id, c.event.name, c.reverse, c.captions] for c in (*train, *test)])
    one_each = {name: clip for clip in train if not clip.reverse for name in (clip.event.name, clip.scene.texture)}
    seen = {
        name: [np.round(mean_colors(frames_of(clip)[at], 3), 1).tolist() for at in (0, 40, -1)]
        for name, clip in sorted(one_each.items())
    }
    return {"plan": hashlib.sha256(said.encode()).hexdigest(), "pictures": seen}


def mean_colors(picture: np.ndarray, side: int) -> np.ndarray:
    height, width = (length // side for length in picture.shape[:2])
    return picture[: height * side, : width * side].reshape(side, height, side, width, 3).mean((1, 3))


@pytest.mark.usefixtures("slow")
def test_the_benchmark_is_that_of_its_version() -> None:
    """After a change that is meant: a new VERSION, and `python -m tests.toy.test_toy` writes its file."""
    expected, found = json.loads(GOLDEN.read_text()), golden()
    assert found["plan"] == expected["plan"]
    assert found["pictures"].keys() == expected["pictures"].keys()
    for name, pictures in expected["pictures"].items():
        np.testing.assert_allclose(found["pictures"][name], pictures, atol=0.5, err_msg=name)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(golden()) + "\n")
