"""Clips for measurements, and the peers' ways of reading them.

Peers: `seek_each_frame` does what X-Pool's `VideoCapture.load_frames_from_video` and the VoP release do, `frame_a_second` what
CLIP4Clip's `RawVideoExtractorCV2` does. Both are written here anew, and end with floats [F, 3, size, size] in 0..1.
"""

from __future__ import annotations

import csv
import os
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import center_crop, resize, to_tensor

from vop.video.frames import sample_indices

WIDTH, HEIGHT, RATE, SECONDS = 640, 360, 30, 15
BAD = ("empty", "truncated", "not-a-video", "no-video-stream")  # the causes that `spoilt` makes


def write_clip(path: Path, seed: int, gop: int, size: tuple[int, int] = (WIDTH, HEIGHT), frames: int = RATE * SECONDS) -> Path:
    """H.264, x264's defaults but for the longest distance of key frames: a camera pans over a coarse scene, with some grain."""
    rng = np.random.default_rng(seed)
    (width, height), cells = size, 12
    scene = np.kron(rng.integers(20, 236, (cells, cells, 3)), np.ones((height // 4, width // 4, 1)))
    scene = scene + rng.normal(0, 12, scene.shape)  # texture, which moves with the scene
    room = np.array(scene.shape[:2]) - (height, width)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(RATE), options={"g": str(gop)})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for k in range(frames):
            top, left = (room * (0.5 + 0.5 * np.sin([k / 90, k / 130 + seed]))).astype(int)
            grain = rng.normal(0, 2, (height, width, 1))
            image = np.clip(scene[top : top + height, left : left + width] + grain, 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_dataset(folder: Path, sources: list[Path], count: int, bad: float = 0.0, apart: bool = False) -> dict[str, int]:
    """`count` files made of a few, each unlike all others by its bytes, and their captions.csv; a share of them spoilt.

    apart: by their sizes too, as real ones mostly are; what is added takes no room on disk.
    Returns how many were spoilt, by cause. The spoilt ones lie evenly among the good.
    """
    folder.mkdir(parents=True)
    whole = [source.read_bytes() for source in sources]
    sound = _sound(folder / "sound.mp4")
    every, causes = round(1 / bad) if bad else 0, dict[str, int]()
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["video", "caption", "split"])
        for k in range(count):
            more = k * 4096 if apart else 0
            data = whole[k % len(whole)] + (16 + more).to_bytes(4, "big") + b"free" + k.to_bytes(8, "big")
            if every and k % every == every // 2:
                cause = BAD[k // every % len(BAD)]
                causes[cause] = causes.get(cause, 0) + 1
                data, more = spoilt(data, cause, sound), 0
            (folder / f"{k:06}.mp4").write_bytes(data)
            os.truncate(folder / f"{k:06}.mp4", len(data) + more)
            table.writerow([f"{k:06}.mp4", f"clip number {k}", ("train", "val", "test")[k % 10 - 7 if k % 10 > 7 else 0]])
    return causes


def spoilt(data: bytes, cause: str, sound: bytes) -> bytes:
    """A file that cannot be read, for a cause of BAD."""
    contents = {"empty": b"", "truncated": data[: len(data) // 2], "not-a-video": b"no video\n" * 99}
    return contents.get(cause, sound)


def _sound(path: Path) -> bytes:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        for _ in range(20):
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    data = path.read_bytes()
    path.unlink()
    return data


def seek_each_frame(path: str, count: int, size: int) -> torch.Tensor:
    """X-Pool and the VoP release: OpenCV seeks to each frame and reads it; torchvision shrinks them all as floats."""
    import cv2

    capture = cv2.VideoCapture(path)
    frames = []
    for index in sample_indices(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), count, "uniform"):
        capture.set(cv2.CAP_PROP_POS_FRAMES, float(index))
        frames.append(torch.from_numpy(cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB)).permute(2, 0, 1))
    capture.release()
    images: torch.Tensor = resize(torch.stack(frames).float() / 255, [size], InterpolationMode.BICUBIC, antialias=True)
    cropped: torch.Tensor = center_crop(images, [size, size])
    return cropped.clamp(0, 1)


def frame_a_second(path: str, count: int, size: int) -> torch.Tensor:
    """CLIP4Clip: OpenCV seeks to the first frame of every second, Pillow shrinks it; then `count` of them are kept evenly."""
    import cv2

    capture = cv2.VideoCapture(path)
    rate, total = round(capture.get(cv2.CAP_PROP_FPS)), int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    images = []
    for second in range((total + rate - 1) // rate):
        for _ in range(2):  # it seeks once for the second, and again for its only frame
            capture.set(cv2.CAP_PROP_POS_FRAMES, second * rate)
        picture = Image.fromarray(cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB))
        images.append(to_tensor(center_crop(resize(picture, [size], InterpolationMode.BICUBIC), [size, size])))
    capture.release()
    return torch.stack(images)[np.linspace(0, len(images) - 1, min(count, len(images)), dtype=int)]


def fresh(folder: Path) -> Path:
    """An empty place: what was there is removed."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder
