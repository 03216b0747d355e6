"""Frames: the sampling rules in numbers, and every decoded frame against an in-order decode by the ffmpeg program."""

from __future__ import annotations

import functools
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from torchvision.transforms.functional import center_crop

from tests.support.videos import FFMPEG, can_encode, encode, ffmpeg, number, picture, rewrap, shown_in_order, write
from vop.video import decode, frames
from vop.video.frames import FrameError, probe, read_frames, sample_indices, sample_seconds

HAVE_DECORD = not frames.decoder_versions()["decord"].startswith("does not load")
needs_decord = pytest.mark.skipif(not HAVE_DECORD, reason="decord does not load")
needs_ffmpeg = pytest.mark.skipif(FFMPEG is None, reason="the ffmpeg program is not on PATH")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="session")
def clean(folder: Path) -> Path:
    """100 frames, closed GOPs of 12, B-frames, index first."""
    return write(folder / "clean.mp4", 100, options={"g": "12", "bf": "2"}, muxer={"movflags": "faststart"})


def numbers(read: frames.Frames) -> list[int]:
    return [number(image) for image in read.pixels_FHWC]


# -- sampling rules ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        (325, [13, 40, 67, 94, 121, 148, 175, 202, 229, 256, 283, 310]),
        (24, list(range(0, 24, 2))),
        (13, list(range(12))),
        (12, list(range(12))),
        (5, [0, 1, 2, 3, 4]),
        (1, [0]),
    ],
)
def test_uniform_takes_the_middle_of_each_segment(total: int, expected: list[int]) -> None:
    assert sample_indices(total, 12, "uniform").tolist() == expected


@pytest.mark.parametrize("total", [1, 5, 12, 13, 24, 325])
def test_random_draws_from_the_whole_of_each_segment(total: int) -> None:
    count = min(total, 12)
    edges = np.linspace(0, total, count + 1).astype(int)
    draws = np.array([sample_indices(total, 12, "random", rng=np.random.default_rng(seed)) for seed in range(400)])
    assert draws.shape == (400, count)
    assert (draws.min(axis=0) == edges[:-1]).all()
    assert (draws.max(axis=0) == edges[1:] - 1).all(), "the last frame of a segment is drawn too"


def test_random_depends_on_the_generator_alone() -> None:
    draw = [sample_indices(325, 12, "random", rng=np.random.default_rng(seed)).tolist() for seed in (3, 3, 4)]
    assert draw[0] == draw[1] != draw[2]


@pytest.mark.parametrize("seed", range(100))
def test_frames_a_second_equal_a_walk_over_the_seconds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.choice([0.0, 0.04, 0.2, 1.0, 3.3], rng.integers(1, 60)))
    fps, start = float(rng.choice([0.3, 1.0, 2.0, 25.0])), float(rng.choice([0.0, 0.5]) * times[0])
    expected, tick = set[int](), 0
    while (tick - 1e-6) / fps <= times[-1] - start:
        on_screen = [k for k, time in enumerate(times) if time <= start + tick / fps + 1e-6]
        expected.add(on_screen[-1] if on_screen else 0)
        tick += 1
    assert sample_seconds(times, 10**6, fps, start).tolist() == sorted(expected)


def test_one_frame_a_second_keeps_both_ends() -> None:
    seconds = sample_seconds(np.arange(450) / 30, 12)
    assert (seconds / 30).tolist() == [0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 14]
    assert sample_seconds(np.arange(450) / 30, 20).tolist() == list(range(0, 450, 30))


def test_frames_a_second_follow_the_clock_and_not_the_index() -> None:
    times = np.array([0.0, 0.1, 0.2, 1.5, 1.6, 2.0, 2.1])
    assert sample_seconds(times, 12).tolist() == [0, 2, 5]
    assert sample_seconds(times, 12, fps=10).tolist() == [0, 1, 2, 3, 4, 5, 6], "none twice"
    assert sample_seconds(times[3:], 12, start=1.1).tolist() == [0, 3], "at 1.1 s its first frame, though later"
    assert sample_seconds(np.zeros(1), 12).tolist() == [0]


def test_wrong_arguments_are_named(clean: Path) -> None:
    with pytest.raises(ValueError, match=r"'rand'.*uniform, random, fps"):
        read_frames(clean, 12, 64, "rand")
    with pytest.raises(ValueError, match=r"'cv2'.*auto, decord, pyav"):
        read_frames(clean, 12, 64, decoder="cv2")
    with pytest.raises(ValueError, match="window"):
        read_frames(clean, 12, 64, window=(3, 3))
    with pytest.raises(ValueError, match=r"'fps'.*uniform, random"):
        sample_indices(10, 5, "fps")
    for total, count in ((0, 12), (12, 0)):
        with pytest.raises(ValueError):
            sample_indices(total, count, "uniform")


# -- what is read ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", [pytest.param("decord", marks=needs_decord), "pyav"])
def test_a_clean_file(clean: Path, decoder: str) -> None:
    read = read_frames(clean, 12, 96, decoder=decoder)
    wanted = sample_indices(100, 12, "uniform")
    assert read.decoder == decoder
    assert read.pixels_FHWC.shape == (12, 96, 96, 3) and read.pixels_FHWC.dtype == np.uint8
    assert numbers(read) == read.indices_F.tolist() == wanted.tolist()
    assert read.mask_F.all() and read.indices_F.dtype == np.int64 and read.times_F.dtype == np.float32
    np.testing.assert_allclose(read.times_F, wanted / 25, atol=1e-6)
    for image, k in zip(read.pixels_FHWC, wanted, strict=True):
        assert np.abs(image - picture(k, 96, 96).astype(float)).mean() < 12, "the central square, RGB"


@needs_decord
def test_auto_is_pyav_and_decord_agrees_on_a_clean_file(clean: Path) -> None:
    by_default, by_decord = (read_frames(clean, 12, 96, "random", seed=5, decoder=name) for name in ("auto", "decord"))
    assert (by_default.decoder, by_decord.decoder) == ("pyav", "decord")
    assert (by_default.indices_F == by_decord.indices_F).all()
    assert np.abs(by_default.pixels_FHWC - by_decord.pixels_FHWC.astype(float)).mean() < 3, "bicubic, bilinear"


@needs_decord
@pytest.mark.usefixtures("slow")
def test_decord_leaves_torch_as_it_is() -> None:
    """Its package loads all libraries of NVIDIA's packages if it sees them, and torch on the CPU then ends the process."""
    program = (
        "from vop.video.decord import load_decord; load_decord(); import torch; print(torch.ones(2, 2) @ torch.ones(2, 2))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0 and "tensor([[2., 2.]" in done.stdout and "NVBLAS" not in done.stderr


def test_decord_that_is_not_installed_is_said(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    assert read_frames(clean, 4, 64).decoder == "pyav"
    assert "does not load" in frames.decoder_versions()["decord"]
    with pytest.raises(FrameError) as caught:
        read_frames(clean, 4, 64, decoder="decord")
    assert caught.value.kind == "no-decoder"


@pytest.mark.parametrize(("wanted", "most"), [(2, 6), (4, 16)])
def test_frames_that_nobody_wants_are_not_decoded(clean: Path, monkeypatch: pytest.MonkeyPatch, wanted: int, most: int) -> None:
    given, whole = 0, decode._shown

    def counted(*arguments: Any) -> Iterator[av.VideoFrame]:
        nonlocal given
        for frame in whole(*arguments):
            given += 1
            yield frame

    monkeypatch.setattr(decode, "_shown", counted)
    read = read_frames(clean, wanted, 64)
    assert numbers(read) == sample_indices(100, wanted, "uniform").tolist()
    assert wanted <= given <= most, "from the key frame before each, without the B-frames between, and none after it"


@pytest.mark.parametrize("decoder", ["auto", "pyav"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_short_clip_repeats_its_last_frame(folder: Path, count: int, decoder: str) -> None:
    path = write(folder / f"short{count}.mp4", count)
    read = read_frames(path, 12, 96, decoder=decoder)
    assert numbers(read) == read.indices_F.tolist() == [min(k, count - 1) for k in range(12)]
    assert read.mask_F.tolist() == [k < count for k in range(12)]
    assert read.pixels_FHWC.shape == (12, 96, 96, 3)


def test_a_window_is_cut_before_sampling(clean: Path) -> None:
    read = read_frames(clean, 12, 64, window=(1.0, 2.0))
    assert numbers(read) == (25 + sample_indices(26, 12, "uniform")).tolist(), "frames 25 to 50, both ends"
    assert read_frames(clean, 12, 64, "fps", window=(1.5, 9.0)).indices_F[:3].tolist() == [38, 62, 87]
    with pytest.raises(FrameError, match="no frame between 30 and 31") as caught:
        read_frames(clean, 12, 64, window=(30, 31))
    assert caught.value.kind == "no-frames"


def test_the_seed_decides_random_frames(clean: Path) -> None:
    first, again, other = (read_frames(clean, 12, 64, "random", seed=seed) for seed in (1, 1, 2))
    assert numbers(first) == first.indices_F.tolist()
    assert (first.pixels_FHWC == again.pixels_FHWC).all()
    assert first.indices_F.tolist() != other.indices_F.tolist()


def test_times_are_those_of_the_file(folder: Path) -> None:
    stamps = [500 + 40 * k + 200 * (k // 7) for k in range(60)]  # ms
    path = write(folder / "vfr.mkv", 60, stamps=stamps, options={"g": "12"})
    read = read_frames(path, 12, 96)
    assert numbers(read) == read.indices_F.tolist() == sample_indices(60, 12, "uniform").tolist()
    np.testing.assert_allclose(read.times_F, [(stamps[k] - 500) / 1000 for k in read.indices_F], atol=2e-3)
    assert probe(path).why == "", "its stamps tell its frames apart"
    seconds = read_frames(path, 3, 96, "fps")
    assert all(t <= s < t + 0.25 for t, s in zip(seconds.times_F[:2], (0, 1), strict=False))


TURNS = {
    "90": ((90, False, False), lambda image: np.rot90(image, 1)),
    "180": ((180, False, False), lambda image: np.rot90(image, 2)),
    "270": ((270, False, False), lambda image: np.rot90(image, 3)),
    "mirrored": ((0, True, False), lambda image: image[:, ::-1]),
    "90-mirrored": ((90, True, False), None),
}


@pytest.mark.parametrize("turn", TURNS)
def test_rotation_is_applied_once(clean: Path, folder: Path, turn: str) -> None:
    display, expected = TURNS[turn]
    path = rewrap(clean, folder / f"turn{turn}.mp4", turn=display)
    read = read_frames(path, 4, 96)
    assert read.decoder == "pyav"
    assert (probe(path).width, probe(path).height) == ((120, 160) if turn.startswith(("90", "270")) else (160, 120))
    if expected is not None:
        for image, k in zip(read.pixels_FHWC, read.indices_F, strict=True):
            assert np.abs(image - expected(picture(k, 96, 96)).astype(float)).mean() < 12
    if FFMPEG:
        shown = shown_in_order(path)
        for image, k in zip(read.pixels_FHWC, read.indices_F, strict=True):
            height, width = shown[k].shape[:2]
            top, left = (height - 120) // 2, (width - 120) // 2
            square = shown[k][top : top + 120, left : left + 120]
            scaled = np.arange(96) * 120 // 96
            assert np.abs(image - square[scaled][:, scaled].astype(float)).mean() < 12


def test_a_crooked_display_matrix_is_ignored(clean: Path, folder: Path) -> None:
    path = rewrap(clean, folder / "crooked.mp4", turn=(45, False, False))
    assert numbers(read_frames(path, 4, 96, decoder="pyav")) == sample_indices(100, 4, "uniform").tolist()


def test_packets_without_a_picture_are_not_frames(folder: Path) -> None:
    source = write(folder / "nut.mp4", 60, codec="mpeg4", options={"g": "12"})
    path = rewrap(source, folder / "holes.nut", empty=lambda place: place % 10 == 5)
    assert probe(path).frames == 60
    assert numbers(read_frames(path, 12, 96)) == sample_indices(60, 12, "uniform").tolist()


@pytest.mark.parametrize("extra", range(8))
def test_the_central_square_is_torchvisions(extra: int) -> None:
    """Where half a pixel is left over, it rounds to the even side."""
    for height, width in ((6 + extra, 6), (6, 6 + extra), (6 + extra, 13 - extra)):
        images = np.arange(height * width * 3, dtype=np.uint8).reshape(1, height, width, 3)
        expected = center_crop(torch.from_numpy(images).permute(0, 3, 1, 2), [6, 6]).permute(0, 2, 3, 1)
        assert np.array_equal(decode.central_square(images, 6), expected.numpy())


@pytest.mark.parametrize("decoder", [pytest.param("decord", marks=needs_decord), "pyav"])
def test_squashed_frames_show_all_of_the_picture(folder: Path, decoder: str) -> None:
    def bars(k: int, width: int, height: int) -> np.ndarray:
        """A white bar of an eighth at either end, which a central square does not hold."""
        image = np.zeros((height, width, 3), np.uint8)
        image[:, : width // 8] = image[:, -width // 8 :] = 255
        return image

    path = write(folder / "bars.mp4", 2, size=(320, 160), options={"qp": "0"}, draw=bars)
    cut, whole = (read_frames(path, 1, 80, decoder=decoder, resize=resize).pixels_FHWC for resize in ("shortest", "squash"))
    assert cut.shape == whole.shape == (1, 80, 80, 3) and cut.max() < 40
    assert whole[0, :, :8].min() > 200 and whole[0, :, -8:].min() > 200 and whole[0, :, 16:-16].max() < 40


def test_frames_are_resized_as_asked(clean: Path) -> None:
    one, other = (read_frames(clean, 1, 80, interpolation=kind).pixels_FHWC for kind in ("bicubic", "bilinear"))
    assert 0 < np.abs(one.astype(int) - other).mean() < 8
    assert np.array_equal(one, read_frames(clean, 1, 80).pixels_FHWC)
    for wrong in ({"interpolation": "nearest"}, {"resize": "longest"}):
        with pytest.raises(ValueError, match="valid"):
            read_frames(clean, 1, 80, **wrong)


@pytest.mark.parametrize("decoder", [pytest.param("decord", marks=needs_decord), "pyav"])
def test_shrinking_averages(folder: Path, decoder: str) -> None:
    def chequers(k: int, width: int, height: int) -> np.ndarray:
        bright = np.indices((height, width)).sum(axis=0)[..., None] % 2
        return np.repeat(bright * 255, 3, axis=2).astype(np.uint8)

    path = write(folder / "chequers.mp4", 2, size=(320, 240), options={"qp": "0"}, draw=chequers)
    pixels = read_frames(path, 1, 80, decoder=decoder).pixels_FHWC  # decord2 cannot shrink to a width of 48, 96 or 144
    assert pixels.std() < 12 and 110 < pixels.mean() < 145, "grey, not stripes"


def test_probe(clean: Path) -> None:
    seen = probe(clean)
    assert (seen.frames, seen.width, seen.height, seen.codec) == (100, 160, 120, "h264")
    assert seen.fps == pytest.approx(25) and seen.duration_s == pytest.approx(4)
    assert (seen.missing, seen.why) == (0, "")


NAMES = ["a b.mp4", "-y.mp4", "видео 视频.mp4", "dot.", "12:30.mp4", "100%03d.mp4", "no_extension", "http:x.mp4"]
NAMES.append(os.fsdecode(b"\xff\xe9.mp4"))  # no UTF-8


@pytest.mark.parametrize("name", NAMES)
def test_any_name_will_do(clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path(tmp_path / name).write_bytes(clean.read_bytes())
    for decoder in ("auto", "pyav", *["decord"] * HAVE_DECORD):
        assert numbers(read_frames(name, 3, 80, decoder=decoder)) == [16, 49, 82]
    with pytest.raises(FrameError) as caught:
        read_frames(f"no {name}", 3, 96)
    assert str(caught.value).encode().startswith(b"no "), "it can be printed"


# -- files that cannot be read -----------------------------------------------------------------------------------------


def bad_files(folder: Path, clean: Path) -> dict[str, tuple[Path, str]]:
    made = {
        "missing": (folder / "nowhere.mp4", "missing"),
        "directory": (folder, "not-a-file"),
        "empty": (folder / "empty.mp4", "empty"),
        "text": (folder / "text.mp4", "not-a-video"),
        "play list": (folder / "list.mp4", "not-a-video"),
        "no index": (folder / "no_index.mp4", "truncated"),
    }
    made["empty"][0].write_bytes(b"")
    made["text"][0].write_text("this is not a video\n" * 100)
    made["play list"][0].write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/x.ts\n")
    made["no index"][0].write_bytes(clean.read_bytes()[:600])
    return made


@pytest.mark.parametrize("case", ["missing", "directory", "empty", "text", "play list", "no index"])
def test_what_is_no_video_says_so(folder: Path, clean: Path, case: str, capfd: pytest.CaptureFixture[str]) -> None:
    path, kind = bad_files(folder, clean)[case]
    for call in (probe, lambda path: read_frames(path, 12, 64)):
        with pytest.raises(FrameError) as caught:
            call(path)
        assert caught.value.kind == kind and caught.value.path == str(path)
        assert str(caught.value).startswith(str(path)) and len(caught.value.problem) > 10
    assert capfd.readouterr() == ("", "")


def test_a_frame_error_survives_a_worker(folder: Path) -> None:
    with pytest.raises(FrameError) as caught:
        probe(folder / "nowhere.mp4")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.path, again.kind, str(again)) == (caught.value.path, "missing", str(caught.value))


@pytest.mark.parametrize("cover", [False, True])
@needs_ffmpeg
def test_audio_is_no_video(folder: Path, cover: bool) -> None:
    path = folder / f"audio{cover}.m4a"
    ffmpeg("-f", "lavfi", "-i", "sine=d=1", "-c:a", "aac", folder / "audioFalse.m4a")
    if cover:
        ffmpeg("-f", "lavfi", "-i", "color=red:s=64x64:d=1", "-frames:v", "1", folder / "cover.png")
        inputs = ["-i", folder / "audioFalse.m4a", "-i", folder / "cover.png", "-map", "0", "-map", "1"]
        ffmpeg(*inputs, "-c:a", "copy", "-c:v", "png", "-disposition:v", "attached_pic", path)
    with pytest.raises(FrameError) as caught:
        read_frames(path, 12, 64)
    assert caught.value.kind == "no-video-stream"


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv", "cut.avi", "cut.flv"])
@pytest.mark.parametrize("decoder", ["auto", "pyav"])
def test_a_file_cut_off_gives_the_frames_it_holds_or_an_error(folder: Path, name: str, decoder: str) -> None:
    muxer = {"movflags": "faststart"} if name.endswith("mp4") else {}
    whole = write(folder / f"whole_{name}", 100, options={"g": "12"}, muxer=muxer).read_bytes()
    path = folder / name
    path.write_bytes(whole[: len(whole) * 6 // 10])
    with pytest.raises(FrameError, match=r"\d\d of \d+ frames can be read") as caught:
        read_frames(path, 12, 96, decoder=decoder)
    assert caught.value.kind == "truncated"
    held = int(caught.value.problem.split("cut off: ")[1].split(" of ")[0])
    assert 40 <= held <= 65
    start = read_frames(path, 12, 96, window=(0, 1), decoder=decoder)
    assert numbers(start) == start.indices_F.tolist() == sample_indices(26, 12, "uniform").tolist()
    assert start.decoder == "pyav"
    if name != "cut.flv":  # its header tells the length in time alone, which is right to a frame or two
        whole_of_it = read_frames(path, held, 96, window=(0, (held - 1) / 25), decoder=decoder)
        assert numbers(whole_of_it) == list(range(held))


@pytest.mark.parametrize("decoder", ["auto", "pyav"])
def test_broken_packets_are_an_error_where_they_are_wanted(folder: Path, clean: Path, decoder: str) -> None:
    data = bytearray(clean.read_bytes())
    middle = len(data) * 6 // 10
    data[middle : middle + len(data) // 4] = bytes(len(data) // 4)
    path = folder / "broken.mp4"
    path.write_bytes(data)
    with pytest.raises(FrameError, match=r"\d+ of 100 frames can be read") as caught:
        read_frames(path, 50, 96, decoder=decoder)
    assert caught.value.kind == "decode"
    assert numbers(read_frames(path, 12, 96, window=(0, 1), decoder=decoder)) == sample_indices(26, 12, "uniform").tolist()


def test_a_file_whose_first_frame_is_lost_is_decoded_in_order(folder: Path) -> None:
    whole = write(folder / "first.mp4", 60, codec="mpeg4", options={"g": "12"})
    with av.open(str(whole)) as container:
        head = next(container.demux(video=0))
        start, size = head.pos, head.size
    data = bytearray(whole.read_bytes())
    data[start : start + size] = bytes(size)
    path = folder / "first_lost.mp4"
    path.write_bytes(data)
    with pytest.raises(FrameError, match="frame 0 cannot be decoded"):
        read_frames(path, 60, 96)
    late = read_frames(path, 12, 96, window=(1, 2))
    assert late.decoder == "pyav" and numbers(late) == late.indices_F.tolist()
    assert "first" in probe(path).why


def test_reading_is_silent(clean: Path, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    read_frames(clean, 12, 96)
    read_frames(rewrap(clean, folder / "quiet.mp4", keep=lambda place: place != 40), 12, 96)
    assert capfd.readouterr() == ("", "")


# -- golden: every frame against ffmpeg's decode in order --------------------------------------------------------------

H264 = "-c:v libx264 -preset veryfast -pix_fmt yuv420p"
HEVC = "-c:v libx265 -preset ultrafast -pix_fmt yuv420p -x265-params log-level=none:keyint=12:bframes=3"
VP9 = "-c:v libvpx-vp9 -pix_fmt yuv420p -g 30 -b:v 300k -deadline good -cpu-used 8 -lag-in-frames 16 -auto-alt-ref 1"
VFR = "-vf setpts='(N+0.8*floor(N/7)+random(1)*0.4)/25/TB' -vsync vfr -enc_time_base 1:90000"
GAPS = "-vf setpts='(N+5*floor(N/7))/25/TB' -vsync vfr -r 25"

SOUND = "-f lavfi -i sine=d=4.2"

# file name -> arguments of ffmpeg
ENCODED: dict[str, str] = {
    "gop250.mp4": f"{H264} -g 250",
    "gop12.mp4": f"{H264} -g 12",
    "gop12.mkv": f"{H264} -g 12",
    "gop12.mov": f"{H264} -g 12",
    "gop2.mp4": f"{H264} -g 2 -bf 1",
    "pyramid.mp4": f"{H264} -g 30 -bf 8 -x264opts b-adapt=0:b-pyramid=normal",
    "fragments.mp4": f"{H264} -g 12 -movflags frag_keyframe+empty_moov",
    "open.mp4": f"{H264} -g 12 -x264opts open-gop=1:b-adapt=0:bframes=3",
    "open.mkv": f"{H264} -g 12 -x264opts open-gop=1:b-adapt=0:bframes=3",
    "refresh.mp4": f"{H264} -g 24 -x264opts intra-refresh=1 -bf 0",
    "vfr.mp4": f"{VFR} {H264} -g 30 -video_track_timescale 90000",
    "vfr_twins.mkv": f"{VFR} {H264} -g 30",  # some neighbours share a time stamp
    "gop12.ts": f"{H264} -g 12",
    "gop12.flv": f"{H264} -g 12",
    "gop12.avi": f"{H264} -g 12",
    "gaps.avi": f"{GAPS} -c:v mpeg4 -q:v 3 -g 12",  # with place holders
    "bframes.avi": "-c:v mpeg4 -q:v 3 -g 12 -bf 2",
    "bframes.mp4": "-c:v mpeg4 -q:v 3 -g 12 -bf 2",
    "mpeg4.mp4": "-c:v mpeg4 -q:v 3 -g 12",
    "odd.mkv": "-c:v mpeg4 -q:v 3 -g 12",
    "odd444.mp4": "-c:v libx264 -preset veryfast -pix_fmt yuv444p -g 12",
    "ten_bit.mp4": "-c:v libx264 -preset veryfast -pix_fmt yuv420p10le -g 12",
    "hevc.mp4": f"{HEVC}:open-gop=0",
    "hevc_open.mkv": f"{HEVC}:open-gop=1",
    "vp8.webm": "-c:v libvpx -pix_fmt yuv420p -g 30 -b:v 300k -cpu-used 8 -auto-alt-ref 1 -lag-in-frames 16",
    "vp9.webm": VP9,
    "vp9.mp4": VP9,
    "av1.mp4": "-c:v libsvtav1 -pix_fmt yuv420p -g 30 -preset 12",
    "h263.3gp": "-c:v h263 -g 12 -q:v 3",
    "wmv2.wmv": "-c:v wmv2 -g 12 -q:v 3",
    "msmpeg4.wmv": "-c:v msmpeg4 -g 12 -q:v 3",
    "mpeg2.mpg": "-c:v mpeg2video -g 12 -bf 2 -q:v 3",
    "prores.mov": "-c:v prores",
    "mjpeg.avi": "-c:v mjpeg -pix_fmt yuvj420p",
    "sound.mp4": f"{SOUND} {H264} -g 12 -c:a aac",
    "sound.mkv": f"{SOUND} {H264} -g 250 -c:a aac",
    "sound.avi": f"{SOUND} -c:v mpeg4 -q:v 3 -g 12 -c:a mp2",
    "sound.webm": f"{SOUND} {VP9} -c:a libopus",
    "hevc10.mkv": f"{HEVC}:open-gop=0".replace("yuv420p", "yuv420p10le"),
    "av1.webm": "-c:v libsvtav1 -pix_fmt yuv420p -g 30 -preset 12",
    "av1_10.mkv": "-c:v libsvtav1 -pix_fmt yuv420p10le -g 30 -preset 12",
    "gop12.3gp": f"{H264} -g 12",
    "one.mp4": f"{H264} -frames:v 1",
    "one.mkv": f"{H264} -frames:v 1",
    "theora.ogv": "-c:v libtheora -pix_fmt yuv420p -g 12 -q:v 7",
}
SIZES = {"odd.mkv": (161, 121), "odd444.mp4": (161, 121), "h263.3gp": (176, 144)}

# file name -> the encoded file that it is made of, and how; each of them is awkward
REMADE: dict[str, tuple[str, Callable[[Path, Path], object]]] = {
    "cut_start.mp4": ("gop12.mp4", lambda old, new: ffmpeg("-ss", "1.1", "-i", old, "-c", "copy", new)),
    "cut_late.mp4": ("gop250.mp4", lambda old, new: ffmpeg("-ss", "2.37", "-i", old, "-c", "copy", new)),
    "cut_end.mp4": ("gop250.mp4", lambda old, new: ffmpeg("-i", old, "-t", "2.37", "-c", "copy", new)),
    "cut_sound.mp4": ("sound.mp4", lambda old, new: ffmpeg("-ss", "1.1", "-i", old, "-c", "copy", new)),
    "cut_hevc.mp4": ("hevc.mp4", lambda old, new: ffmpeg("-ss", "1.1", "-i", old, "-c", "copy", new)),
    "cut_open.mp4": ("open.mp4", lambda old, new: ffmpeg("-ss", "1.37", "-i", old, "-c", "copy", new)),
    "dropped.mp4": ("gop12.mp4", lambda old, new: rewrap(old, new, keep=lambda place: place != 51)),
    "dropped_key.mp4": ("gop12.mp4", lambda old, new: rewrap(old, new, keep=lambda place: place != 60)),
    "dropped_first.mp4": ("gop12.mp4", lambda old, new: rewrap(old, new, keep=lambda place: place != 0)),
    "dropped.webm": ("vp9.webm", lambda old, new: rewrap(old, new, keep=lambda place: place != 40)),
}


@functools.cache
def made(folder: Path, name: str) -> Path:
    if name in REMADE:
        source, remake = REMADE[name]
        remake(made(folder, source), folder / name)
        return folder / name
    arguments = ENCODED[name].replace("'", "").split()
    return encode(folder / name, 100, *arguments, size=SIZES.get(name, (160, 120)))


@functools.cache
def shown_numbers(path: Path) -> list[int]:
    return [number(image) for image in shown_in_order(path)]


IN_ORDER = (
    "avi",
    "ts",
    "flv",
    "wmv",
    "mpg",
    "3gp",
    "prores",
    "theora",
    "vfr_twins",
    "cut_open",
    "dropped_first",
    "dropped_key",
)


def golden(folder: Path, name: str) -> tuple[Path, list[int]]:
    """A file of ENCODED or REMADE, and the numbers of the frames that ffmpeg shows of it."""
    codec = (ENCODED.get(name) or ENCODED[REMADE[name][0]]).split("-c:v ")[1].split()[0]
    if not can_encode(codec):
        pytest.skip(f"this ffmpeg has no encoder {codec}")
    path = made(folder, name)
    return path, shown_numbers(path)


@needs_ffmpeg
@pytest.mark.parametrize("name", [*ENCODED, *REMADE])
def test_frames_are_those_that_ffmpeg_shows(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path, shown = golden(folder, name)
    if name not in ("dropped_key.mp4", "dropped_first.mp4"):  # these hold packets that show nothing
        assert probe(path).frames == len(shown)
    assert shown and -1 not in shown
    asked = ((12, "uniform"), (7, "random"), (4, "fps"), (len(shown) + 3, "uniform"))
    reads = []
    for count, sampling in asked:
        read = read_frames(path, count, 96, sampling, seed=count)
        assert numbers(read) == [shown[k] for k in read.indices_F]
        if sampling != "fps":
            wanted = sample_indices(len(shown), count, sampling, rng=np.random.default_rng(count))
            assert read.indices_F[read.mask_F].tolist() == wanted.tolist()
        assert (read.decoder, read.damaged, read.missing) == ("pyav", 0, 0)
        reads.append(read)
    monkeypatch.setattr(frames, "by_seeking", lambda *arguments: None)
    for (count, sampling), read in zip(asked, reads, strict=True):
        in_order = read_frames(path, count, 96, sampling, seed=count)
        assert (in_order.pixels_FHWC == read.pixels_FHWC).all(), "the same pixels, decoded in order"


@needs_ffmpeg
@pytest.mark.parametrize("name", [name for name in (*ENCODED, *REMADE) if not any(word in name for word in IN_ORDER)])
def test_no_file_that_allows_to_seek_is_decoded_in_order(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = golden(folder, name)
    monkeypatch.delattr(frames, "in_order")
    read_frames(path, 12, 96)


@needs_ffmpeg
@needs_decord
@pytest.mark.parametrize("name", [*ENCODED, *REMADE])
def test_decord_warns_of_files_that_it_may_read_wrongly(folder: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    path, shown = golden(folder, name)
    try:
        read = read_frames(path, 12, 96, decoder="decord")
    except FrameError as error:
        assert error.kind == "decode", "it says that it cannot"
    else:
        assert "may return wrong frames" in caplog.text or numbers(read) == [shown[k] for k in read.indices_F]
    if name in ("open.mp4", "dropped_key.mp4", "cut_start.mp4", "gop12.ts"):
        assert "may return wrong frames" in caplog.text
