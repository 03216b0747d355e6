"""What works on this machine: each part that training needs or can use, tried, with its version or why it does not work."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from vop.config import Experiment
from vop.places import absolute, is_remote

NEEDED = {  # a distribution: the module that shows whether it loads
    "torch": "torch",
    "open_clip_torch": "open_clip",
    "ray": "ray.train",
    "mlflow": "pipelines.tracking",
}
TOY = {"backbone": {"name": "ViT-toy", "pretrained": "ViT-toy.safetensors"}, "frames": {"count": 2}}
GREYS = (0, 60, 120, 180)  # of the frames of the video that decoders are tried on
ROOM_GIB = 1  # the frames of about 600 videos, 12 of 224 x 224 each


@dataclass(frozen=True)
class Check:
    """A part: whether it works, its version or what is wrong, and whether training needs it."""

    name: str
    works: bool
    found: str
    needed: bool = False


def checks(experiment: Experiment) -> list[Check]:
    """All checks for an experiment, in the order of the table."""
    return [
        Check("python", True, f"{platform.python_version()}, {os.cpu_count()} CPUs"),
        *_decoders(),
        *(_library(name, module) for name, module in NEEDED.items()),
        _training_step(),
        _cuda(),
        _ffmpeg(),
        _disk(experiment.data.cache),
        _shared_memory(),
    ]


def _decoders() -> list[Check]:
    """Each reads a small video that is written for it. PyAV reads every file and is needed; decord is faster on some."""
    try:
        from vop.toy.videos import write_video
        from vop.video.frames import decoder_versions

        versions = decoder_versions()
    except Exception as error:
        return [Check("decoder pyav", False, f"does not load: {error}", needed=True)]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        path, fault = Path(folder) / "grey.mp4", ""
        try:
            write_video(path, [np.full((64, 64, 3), grey, np.uint8) for grey in GREYS], rate=4)
        except Exception as error:
            fault = f"cannot write a video to try: {error}"
        for name, text in versions.items():
            wrong = "" if text.startswith("does not load") else fault or _misread(path, name)
            works = not wrong and not text.startswith("does not load")
            found.append(Check(f"decoder {name}", works, f"{text}: {wrong}" if wrong else text, needed=name == "pyav"))
    return found


def _misread(path: Path, decoder: str) -> str:
    """What is wrong with the frames that a decoder gives of the small video, else ''."""
    from vop.video.frames import read_frames

    try:
        read = read_frames(path, len(GREYS), 64, decoder=decoder)  # decord2 cannot shrink to every small size
    except Exception as error:  # whatever a library that does not fit throws
        return f"cannot read a video: {type(error).__name__}: {error}"
    greys = read.pixels_FHWC.mean((1, 2, 3))
    return "" if np.abs(greys - GREYS).max() < 10 else f"reads other frames than were written: {greys.round().tolist()}"


def _training_step() -> Check:
    """One step of VoP on the embedded tiny CLIP."""
    name = "a training step"
    try:
        import torch

        from vop.config import load_experiment
        from vop.model.loss import contrastive_loss
        from vop.model.retrieval import build_model

        model = build_model(load_experiment(TOY))
        pixels_BFHWC = torch.arange(2 * 2 * model.backbone.size**2 * 3).reshape(2, 2, model.backbone.size, -1, 3) % 251
        text_BE, video_BE = model(pixels_BFHWC.byte(), torch.ones(2, 2, dtype=torch.bool), model.tokenize(["a cat", "a dog"]))
        loss = contrastive_loss(model.scale * text_BE @ video_BE.T)
        loss.backward()
        moved = [p.grad is not None and bool(p.grad.isfinite().all() and p.grad.any()) for p in model.trainable().values()]
    except Exception as error:  # whatever a library that does not fit throws
        return Check(name, False, f"{type(error).__name__}: {error}", needed=True)
    works = bool(loss.isfinite()) and all(moved)
    return Check(name, works, f"loss {loss.item():.3f} on the tiny CLIP" if works else "no gradient", needed=True)


def _library(name: str, module: str) -> Check:
    try:
        importlib.import_module(module)
        return Check(name, True, version(name), needed=True)
    except Exception as error:  # libraries that do not fit each other throw more than ImportError
        return Check(name, False, f"does not load: {error}", needed=True)


def _cuda() -> Check:
    try:
        import torch
    except Exception:
        return Check("cuda", False, "torch does not load")
    if not torch.cuda.is_available():
        return Check("cuda", False, f"no device (torch is built for CUDA {torch.version.cuda or 'none'}); the CPU is used")
    devices = [torch.cuda.get_device_properties(place) for place in range(torch.cuda.device_count())]
    return Check("cuda", True, ", ".join(f"{device.name} {device.total_memory / 2**30:.0f} GiB" for device in devices))


def _ffmpeg() -> Check:
    program = shutil.which("ffmpeg")
    if not program:
        return Check("ffmpeg program", False, "not on the PATH; only tests use it")
    lines = subprocess.run([program, "-version"], capture_output=True, text=True).stdout.splitlines()
    return Check("ffmpeg program", bool(lines), f"{lines[0] if lines else 'does not run'}; only tests use it")


def _disk(cache: str) -> Check:
    """Room where the frame store goes; its folder need not be there yet."""
    if is_remote(cache):
        return Check("data.cache", True, f"{cache}: not on this machine's disks", needed=True)
    place = Path(absolute(cache))
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Check("data.cache", False, f"{there} is not a folder that can be written to", needed=True)
    free = shutil.disk_usage(there).free / 2**30
    works = free >= ROOM_GIB
    return Check("data.cache", works, f"{free:.1f} GiB free at {there}" + ("" if works else f"; need {ROOM_GIB}"), needed=True)


def _shared_memory(place: str = "/dev/shm") -> Check:
    """Room for what Ray's processes share; Docker gives 64 MB unless it is told otherwise, and Ray then uses a slow disk."""
    if not Path(place).is_dir():
        return Check("shared memory", False, f"no {place}; Ray uses files in its place")
    free = shutil.disk_usage(place).free / 2**30
    return Check(
        "shared memory",
        free >= ROOM_GIB,
        f"{free:.1f} GiB free at {place}" + ("" if free >= ROOM_GIB else f"; better {ROOM_GIB}"),
    )
