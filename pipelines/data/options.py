"""All that decides what a frame store holds of a video: StoreOptions, the content key of its file, and the store's folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from pyarrow import fs

from vop.benchmarks import Record
from vop.config import Experiment
from vop.fingerprint import fingerprint
from vop.model.preprocess import preprocess_of
from vop.places import absolute, file_infos, join
from vop.video.frames import Frames, read_frames

STORE_VERSION = 3


@dataclass(frozen=True)
class StoreOptions:
    """size: pixels of a frame's sides; count: frames that a reader gets; stored: frames that there are to choose from.

    store: whether training videos are stored too; sampling, fps, decoder, incomplete: of `FramesConfig`; codec, quality: of
    `DataConfig`; resize, interpolation: of the backbone's `Preprocess`.
    """

    size: int
    count: int
    stored: int
    store: bool
    sampling: str
    fps: float
    decoder: str
    incomplete: str
    codec: str
    quality: int
    resize: str = "shortest"
    interpolation: str = "bicubic"

    @property
    def identity(self) -> dict[str, Any]:
        """All that the frames of a video depend on beside its file and its window, JSON-ready."""
        told = asdict(self)
        for field in fields(self):
            if told[field.name] == field.default:  # stores of before these fields were there are named without them
                del told[field.name]
        return {"version": STORE_VERSION, **told}

    def read(self, path: str, window: Sequence[float] | None, seed: int | None = None) -> Frames:
        """The frames of a video that a training step takes: as stored, or with a seed those that it draws."""
        sampling = "uniform" if seed is None and self.sampling == "random" else self.sampling
        return self._frames(path, window, self.count, sampling, seed or 0)

    def read_all(self, path: str, window: Sequence[float] | None) -> Frames:
        """The frames of a video that are stored: where training draws frames at random, all that it draws from."""
        sampling = "uniform" if self.sampling == "random" else self.sampling
        return self._frames(path, window, self.stored, sampling, 0)

    def _frames(self, path: str, window: Sequence[float] | None, count: int, sampling: str, seed: int) -> Frames:
        span = (float(window[0]), float(window[1])) if window is not None else None
        return read_frames(
            path,
            count,
            self.size,
            sampling,
            fps=self.fps,
            window=span,
            decoder=self.decoder,
            seed=seed,
            incomplete=self.incomplete,
            resize=self.resize,
            interpolation=self.interpolation,
        )


def store_options(experiment: Experiment, image_size: int) -> StoreOptions:
    """The options of an experiment's store; image_size: of its backbone."""
    frames, data = experiment.frames, experiment.data
    preprocess = preprocess_of(experiment.backbone)
    candidates = frames.candidates if frames.sampling == "random" else 1
    return StoreOptions(
        size=image_size,
        count=frames.count,
        stored=frames.count * candidates,
        store=data.store,
        sampling=frames.sampling,
        fps=frames.fps if frames.sampling == "fps" else 1.0,  # it has no effect then
        decoder=frames.decoder,
        incomplete=frames.incomplete,
        codec=data.codec,
        quality=data.jpeg_quality if data.codec == "jpeg" else 0,
        resize=preprocess.resize,
        interpolation=preprocess.interpolation,
    )


def content_key(record: Record, info: fs.FileInfo | None = None) -> str:
    """Changes when what a record shows does: its file's path, size and time of modification (or that it is missing), window."""
    info = info or file_infos([record.path])[0]
    state = "missing" if info.type == fs.FileType.NotFound else f"{info.size}|{info.mtime_ns}"
    return hashlib.sha256(f"{record.path}|{state}|{record.window}".encode()).hexdigest()


def store_folder(experiment: Experiment, image_size: int) -> str:
    """The store's folder: the benchmark's name, and a hash of where it is and of all that decides what is stored."""
    benchmark = experiment.benchmark.model_dump(mode="json", exclude={"shared_videos"})
    benchmark |= {name: absolute(benchmark[name]) for name in ("videos", "annotations") if benchmark[name]}
    digest = fingerprint([store_options(experiment, image_size).identity, benchmark], length=10)
    return join(absolute(experiment.data.cache), "frames", f"{experiment.benchmark.name}-{digest}")
