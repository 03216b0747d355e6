"""Small videos whose pictures carry their own number, so that a decoded frame says which one it is."""

from __future__ import annotations

import csv
import functools
import shutil
import subprocess
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from vop.toy.videos import frames_of, plan, write_video

FFMPEG = shutil.which("ffmpeg")
GRID = 4  # cells a side, in the central square: 14 bits of Gray code between a bright and a dark corner
DARK, BRIGHT = np.array([20, 20, 20]), np.array([235, 200, 140])  # unequal, so that swapped channels show


def picture(number: int, width: int = 160, height: int = 120) -> np.ndarray:
    """uint8 [H, W, 3]. Gray code: neighbours differ in one cell, so a blend of two reads as one of them."""
    code = number ^ number >> 1
    bits = np.array([1, *(code >> k & 1 for k in range(GRID**2 - 2)), 0]).reshape(GRID, GRID)
    side = min(width, height)
    cell = np.arange(side) * GRID // side
    image = np.full((height, width, 3), 90, np.uint8)
    top, left = (height - side) // 2, (width - side) // 2
    image[top : top + side, left : left + side] = np.where(bits[cell][:, cell, None], BRIGHT, DARK)
    return image


def number(image: np.ndarray) -> int:
    """The number that a picture carries, whatever its size; -1 where it is turned, mirrored or no such picture."""
    height, width = image.shape[:2]
    side = min(height, width)
    cell, top, left = side / GRID, (height - side) // 2, (width - side) // 2
    starts, reach = ((np.arange(GRID) + 0.3) * cell).astype(int), max(1, int(0.4 * cell))  # clear of the edges
    cells = [image[top + y : top + y + reach, left + x : left + x + reach].mean() for y in starts for x in starts]
    if cells[0] < 100 or cells[-1] > 100:
        return -1
    code = sum(int(cell > 100) << k for k, cell in enumerate(cells[1:-1]))
    value = 0
    while code:
        value, code = value ^ code, code >> 1
    return value


def write(
    path: Path,
    count: int,
    *,
    codec: str = "libx264",
    size: tuple[int, int] = (160, 120),
    rate: int = 25,
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
    stamps: Sequence[int] | None = None,
    draw: Callable[[int, int, int], np.ndarray] = picture,
) -> Path:
    """Encode `count` numbered pictures with PyAV; `stamps` are times in ms, else one every 1/rate s."""
    with av.open(str(path), "w", options=muxer or {}) as container:
        stream = container.add_stream(codec, rate=rate, options={"preset": "ultrafast", **(options or {})})
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        stream.codec_context.thread_count = 1
        if stamps is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for k in range(count):
            frame = av.VideoFrame.from_ndarray(draw(k, *size), format="rgb24").reformat(format=pixels)
            frame.pts = k if stamps is None else stamps[k]
            frame.time_base = Fraction(1, rate) if stamps is None else Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def rewrap(
    source: Path,
    target: Path,
    *,
    keep: Callable[[int], bool] = lambda place: True,
    turn: tuple[float, bool, bool] | None = None,
    empty: Callable[[int], bool] = lambda place: False,
    change: Callable[[bytes], bytes] = lambda data: data,
    changed: Callable[[int], bool] = lambda place: True,
) -> Path:
    """Copy the video packets for which `keep(place stored)`; `turn` is (degrees, mirrored, upside down).

    Where `empty(place)` a packet without a byte goes first; where `changed(place)` the bytes are those of `change(bytes)`.
    """
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = old.streams.video[0]
        copied = new.add_stream_from_template(stream)
        if turn is not None:
            copied.set_display_rotation(turn[0], hflip=turn[1], vflip=turn[2])
        packets = (packet for packet in old.demux(stream) if packet.dts is not None)
        for place, packet in enumerate(packets):
            if empty(place):
                hole = av.Packet()
                hole.stream, hole.time_base, hole.pts, hole.dts = copied, packet.time_base, packet.pts - 1, packet.dts - 1
                new.mux(hole)
            if keep(place):
                if changed(place):
                    was, packet = packet, av.Packet(change(bytes(packet)))
                    packet.pts, packet.dts, packet.duration, packet.time_base = was.pts, was.dts, was.duration, was.time_base
                    packet.is_keyframe = was.is_keyframe
                packet.stream = copied
                new.mux(packet)
    return target


def ffmpeg(*arguments: str | Path, stdin: bytes = b"") -> bytes:
    """Run the ffmpeg program; its standard output."""
    command = [FFMPEG or "ffmpeg", "-v", "error", "-y", "-threads", "1", *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True)
    if done.returncode:
        raise RuntimeError(done.stderr.decode(errors="replace")[-500:])
    return done.stdout


@functools.cache
def can_encode(codec: str) -> bool:
    return FFMPEG is not None and f" {codec} ".encode() in ffmpeg("-hide_banner", "-encoders")


@functools.cache
def passthrough() -> str:
    return "-fps_mode" if b"fps_mode" in ffmpeg("-h", "long") else "-vsync"


def encode(path: Path, count: int, *arguments: str, size: tuple[int, int] = (160, 120)) -> Path:
    """Encode `count` numbered pictures, 25 a second, with the ffmpeg program."""
    raw = b"".join(picture(k, *size).tobytes() for k in range(count))
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{size[0]}x{size[1]}", "-r", "25", "-i", "-"]
    ffmpeg(*source, *arguments, "-threads", "1", path, stdin=raw)
    return path


def shown_in_order(path: Path) -> list[np.ndarray]:
    """Every frame that the ffmpeg program shows of a file, decoded from its start, at full size."""
    output = ["-pix_fmt", "rgb24", "-f", "image2pipe", "-c:v", "ppm", "-"]
    data = ffmpeg("-i", path, passthrough(), "passthrough", *output)
    frames, at = [], 0
    while at < len(data):
        magic, size, depth, _ = data[at : at + 64].split(b"\n", 3)
        assert (magic, depth) == (b"P6", b"255")
        width, height = map(int, size.split())
        at += len(magic) + len(size) + len(depth) + 3
        frames.append(np.frombuffer(data, np.uint8, width * height * 3, at).reshape(height, width, 3))
        at += width * height * 3
    return frames


def write_clips(folder: Path) -> Path:
    """Twelve toy clips, two of them with two captions, and their captions.csv (6 train, 2 val, 4 test); returns the folder."""
    rows = []
    for number, clip in enumerate(plan()[0][:12]):
        name = f"clip {number}.mp4"
        write_video(folder / name, [picture[:64, :64] for picture in frames_of(clip)[::6]], rate=8)
        split = "train" if number < 6 else "val" if number < 8 else "test"
        rows += [[name, caption, split] for caption in clip.captions[: 2 if number < 2 else 1]]
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["video", "caption", "split"], *rows])
    return folder
