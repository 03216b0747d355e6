"""Files of strangers: they claim much, are damaged, cut, or hold what PyAV has no name for."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from tests.support.videos import FFMPEG, ffmpeg, number, picture, rewrap, write
from vop.video.files import MAX_PIXELS
from vop.video.frames import MOST_DAMAGED, FrameError, probe, read_frames, sample_indices

needs_ffmpeg = pytest.mark.skipif(FFMPEG is None, reason="the ffmpeg program is not on PATH")
MOST_MIB = 100  # above the program's own

READ = """
import resource, sys
from vop.video.frames import FrameError, read_frames
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before, kinds = peak(), []
for sampling in ("uniform", "random", "fps"):
    for incomplete in ("refuse", "take"):
        try:
            read_frames(sys.argv[1], 12, 64, sampling, incomplete=incomplete)
            kinds.append("read")
        except FrameError as error:
            kinds.append(error.kind)
print((peak() - before) // 2**10, resource.getrusage(resource.RUSAGE_SELF).ru_utime, *kinds)
"""


def kinds_of(path: Path) -> list[str]:
    """How reading a file ends, in a process of its own that must stay small."""
    done = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True, timeout=120)
    assert not done.returncode, done.stderr[-500:]
    mib, _, *kinds = done.stdout.split()
    assert int(mib) < MOST_MIB, f"{mib} MiB"
    return kinds


# -- files that claim much -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [3e6, 1e9, 9e12])
def test_a_length_that_is_only_claimed_costs_nothing(tmp_path: Path, seconds: float) -> None:
    data = bytearray(write(tmp_path / "ok.mkv", 10).read_bytes())
    duration = data.index(b"\x44\x89\x88") + 3  # Matroska's Duration, a double in ms
    data[duration : duration + 8] = struct.pack(">d", seconds * 1000)
    path = tmp_path / "claims.mkv"
    path.write_bytes(data)
    assert kinds_of(path) == ["truncated", "read"] * 3
    taken = read_frames(path, 12, 64, incomplete="take")
    assert [number(image) for image in taken.pixels_FHWC] == [*range(10), 9, 9] and taken.missing > 1e7


@pytest.mark.parametrize("muxer", [{}, {"movflags": "frag_keyframe+empty_moov"}])
def test_an_index_that_is_only_claimed_costs_nothing(tmp_path: Path, muxer: dict[str, str]) -> None:
    data = bytearray(write(tmp_path / "ok.mp4", 10, codec="mpeg4", options={"g": "1"}, muxer=muxer).read_bytes())
    samples = 40_000_000
    if muxer:  # of one byte each: as long as the track's default, which a fragment need not repeat
        run = data.index(b"trun")
        data[run + 4 : run + 12] = struct.pack(">II", 0, samples)
    else:
        for box, place in ((b"stsz", 8), (b"stsz", 12), (b"stsc", 16), (b"stts", 12)):
            at = data.index(box) + place
            data[at : at + 4] = struct.pack(">I", 1 if (box, place) == (b"stsz", 8) else samples)
    path = tmp_path / "claims.mp4"
    path.write_bytes(data)
    assert kinds_of(path) == ["truncated"] * 6


def test_frames_that_lie_years_apart_cost_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "far.mkv", 3, stamps=[0, 40, 2_000_000_000_000])
    assert kinds_of(path) == ["read"] * 6
    assert read_frames(path, 12, 64, "fps", fps=1000).indices_F[:3].tolist() == [0, 1, 2]


@needs_ffmpeg
@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("name", ["huge.png", "huge.jpg", "huge.mkv", "huge.avi"])
def test_pictures_are_not_decoded_that_are_too_large(tmp_path: Path, name: str) -> None:
    codec = "png" if name.endswith("png") else "mjpeg"
    ffmpeg("-f", "lavfi", "-i", "color=gray:s=14000x14000:r=1:d=1", "-frames:v", "1", "-c:v", codec, tmp_path / name)
    assert kinds_of(tmp_path / name) == ["too-large"] * 6
    with pytest.raises(FrameError, match=str(MAX_PIXELS)):
        read_frames(tmp_path / name, 12, 1024)


def test_a_picture_so_narrow_that_its_square_is_too_large_is_not_resized(tmp_path: Path) -> None:
    path = write(tmp_path / "narrow.mkv", 1, codec="mjpeg", pixels="yuvj420p", size=(16000, 4))
    assert read_frames(path, 1, 4).pixels_FHWC.shape == (1, 4, 4, 3)
    with pytest.raises(FrameError) as caught:
        read_frames(path, 1, 224)
    assert caught.value.kind == "too-large"


@pytest.mark.usefixtures("slow")
def test_timestamps_that_run_backwards_end_no_process(tmp_path: Path) -> None:
    whole, path = write(tmp_path / "whole.mp4", 60, options={"g": "250", "bf": "2"}), tmp_path / "backwards.mp4"
    with av.open(str(whole)) as old, av.open(str(path), "w") as new:
        stream = old.streams.video[0]
        copied = new.add_stream_from_template(stream)
        stored = [packet for packet in old.demux(stream) if packet.dts is not None]
        step, start = stored[1].dts - stored[0].dts, stored[0].pts
        for place, packet in enumerate(stored):
            packet.pts, packet.dts = start + step * (200 - place if place else 0), start + step * place
            packet.stream = copied
            new.mux(packet)
    assert len(kinds_of(path)) == 6


# -- what PyAV has no name for -------------------------------------------------------------------------------------------


def exif(image: bytes, orientation: int) -> bytes:
    """A JPEG picture with an EXIF segment, as cameras write it."""
    tags = struct.pack(">HHIHH", 0x112, 3, 1, orientation, 0)
    segment = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", 1) + tags + bytes(4)
    return image[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + image[2:]


TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: np.rot90(image, 2),
    6: lambda image: np.rot90(image, 3),
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("name", ["camera.avi", "camera.mov"])
def test_motion_jpeg_with_exif_is_read(tmp_path: Path, name: str, orientation: int) -> None:
    plain = write(tmp_path / f"plain_{name}", 30, codec="mjpeg", pixels="yuvj420p")
    path = rewrap(plain, tmp_path / name, change=lambda data: exif(data, orientation))
    read = read_frames(path, 4, 96)
    assert read.indices_F.tolist() == sample_indices(30, 4, "uniform").tolist()
    for image, k in zip(read.pixels_FHWC, read.indices_F, strict=True):
        assert np.abs(image - TURNS[orientation](picture(k, 96, 96)).astype(float)).mean() < 12


def test_stereo_video_of_phones_is_read(tmp_path: Path) -> None:
    """Its sample entry says that there is a second layer (lhvC), and its stream has a disposition for that."""
    data = write(tmp_path / "hevc.mp4", 30, codec="libx265", options={"x265-params": "log-level=none:keyint=12"}).read_bytes()
    at = data.index(b"hvcC") - 4
    box = data[at : at + int.from_bytes(data[at : at + 4], "big")]
    layer = struct.pack(">I", len(box) - 17) + b"lhvC" + box[8:9] + box[21:24] + box[29:]
    grown = bytearray(data[:at] + box + layer + data[at + len(box) :])
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"hev1"):
        start = data.rindex(name, 0, at) - 4
        grown[start : start + 4] = struct.pack(">I", int.from_bytes(data[start : start + 4], "big") + len(layer))
    path = tmp_path / "stereo.mp4"
    path.write_bytes(grown)
    read = read_frames(path, 4, 96)
    assert [number(image) for image in read.pixels_FHWC] == sample_indices(30, 4, "uniform").tolist()


# -- damage --------------------------------------------------------------------------------------------------------------


def noise(data: bytes) -> bytes:
    """A packet's bytes, encrypted but for its first, which says how long it is or what it holds."""
    head, tail = data[:8], np.frombuffer(data[8:], np.uint8)
    return head + (tail ^ np.random.default_rng(len(data)).integers(0, 256, len(tail), np.uint8)).tobytes()


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_noise_is_refused(tmp_path: Path, codec: str) -> None:
    whole = write(tmp_path / "whole.mp4", 120, codec=codec, options={"g": "12"})
    path = rewrap(whole, tmp_path / "noise.mp4", change=noise, changed=lambda place: place > 10)
    for incomplete in ("refuse", "take"):
        with pytest.raises(FrameError) as caught:
            read_frames(path, 12, 64, incomplete=incomplete)
        assert caught.value.kind in ("damaged", "decode")


@pytest.mark.usefixtures("slow")
def test_a_little_damage_is_counted(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.mp4", 120, codec="mpeg4", options={"g": "12"})
    assert read_frames(whole, 120, 64).damaged == 0
    path = rewrap(whole, tmp_path / "damaged.mp4", change=noise, changed=lambda place: place in (59, 71, 83))
    read = read_frames(path, 120, 64)
    assert 0 < read.damaged <= MOST_DAMAGED * 120
    kept = [k for k in range(120) if k not in (59, 71, 83)]
    assert [number(read.pixels_FHWC[k]) for k in kept] == kept, "each was the last before a key frame"
    with pytest.raises(FrameError) as caught:
        read_frames(path, 12, 64, window=(2.36, 2.37))
    assert caught.value.kind == "damaged", "nothing but what is damaged"


# -- cut files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv", "cut.avi"])
def test_what_a_cut_file_holds_is_taken_if_one_says_so(tmp_path: Path, name: str) -> None:
    muxer = {"movflags": "faststart"} if name.endswith("mp4") else {}
    data = write(tmp_path / f"whole_{name}", 100, options={"g": "12"}, muxer=muxer).read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: len(data) * 6 // 10])
    with pytest.raises(FrameError, match="it is cut off"):
        read_frames(path, 12, 96)
    read = read_frames(path, 12, 96, incomplete="take")
    held = probe(path).frames - read.missing
    assert 40 <= held <= 65 and 95 <= held + read.missing <= 105 and probe(path).missing == read.missing
    assert [number(image) for image in read.pixels_FHWC] == sample_indices(held, 12, "uniform").tolist()
    with pytest.raises(FrameError, match="no frame between") as caught:
        read_frames(path, 12, 96, window=(3.5, 3.9), incomplete="take")
    assert caught.value.kind == "no-frames"


@pytest.mark.usefixtures("slow")
def test_packets_that_cannot_be_decoded_are_missing_if_one_takes_the_others(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.mp4", 100, options={"g": "1"})
    path = rewrap(whole, tmp_path / "broken.mp4", change=lambda data: bytes(len(data)), changed=lambda place: 40 <= place < 60)
    with pytest.raises(FrameError, match=r"frame 4\d cannot be decoded") as caught:
        read_frames(path, 100, 96)
    assert caught.value.kind == "decode"
    read = read_frames(path, 100, 96, incomplete="take")
    assert read.missing == 20
    assert [number(image) for image in read.pixels_FHWC[read.mask_F]] == [*range(40), *range(60, 100)]


def test_a_size_that_changes_midway_squashes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    small, wide = write(tmp_path / "a.mkv", 24), write(tmp_path / "b.mkv", 24, size=(320, 120))
    path = tmp_path / "both.mkv"
    with av.open(str(path), "w") as new, av.open(str(small)) as first, av.open(str(wide)) as second:
        stream = new.add_stream_from_template(first.streams.video[0])
        for source, later in ((first, 0), (second, 960)):
            parameters = b"" if not later else source.streams.video[0].codec_context.extradata or b""
            for packet in source.demux(video=0):
                if packet.dts is None:
                    continue
                data = in_band(parameters) + bytes(packet) if packet.is_keyframe else bytes(packet)
                copied = av.Packet(data)
                copied.stream, copied.time_base = stream, packet.time_base
                copied.pts, copied.dts, copied.is_keyframe = packet.pts + later, packet.dts + later, packet.is_keyframe
                new.mux(copied)
    read = read_frames(path, 48, 96)
    assert [number(image) for image in read.pixels_FHWC] == [*range(24), *range(24)]
    try:
        read_frames(path, 12, 80, decoder="decord")
    except FrameError as error:
        assert error.kind in ("decode", "no-decoder")
    else:
        assert "its size may change midway" in caplog.text


def in_band(avcc: bytes) -> bytes:
    """The parameter sets of an H.264 configuration record, with lengths of four bytes before them."""
    units, at = b"", 5
    while avcc and at < len(avcc) and len(units) < 2**16:
        count, at = avcc[at] & 31, at + 1
        for _ in range(count):
            length = int.from_bytes(avcc[at : at + 2], "big")
            units, at = units + struct.pack(">I", length) + avcc[at + 2 : at + 2 + length], at + 2 + length
        if b"\x68" in units[4:] and at >= len(avcc) - 4:
            break
    return units
