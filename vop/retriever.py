"""Retriever: a tuned model, or CLIP as it is, for Python programs: texts and video files -> unit embeddings, similarities.

Shapes: M texts, N videos, E joint embedding, F H W C frames of a video, B videos computed at once.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray

from vop.config import ConfigError, Experiment, load_experiment
from vop.errors import VopError
from vop.model.adapter import Adapter, load_adapter, model_of
from vop.model.backbone import PACKAGED, register_packaged_configs
from vop.model.head import joined
from vop.model.hub import is_hub
from vop.model.precision import computing
from vop.model.retrieval import RetrievalModel, build_model
from vop.scores.heads import all_scores
from vop.video.frames import FrameError, read_frames, sample_indices

T = TypeVar("T")
Embeddings = NDArray[np.float32]
Images = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Place = str | os.PathLike[str]  # a path, or for a video also a URI

ZERO_SHOT = "ViT-B-32/openai"
TEXTS, VIDEOS = 256, 16  # computed at once
THREADS = 8  # decode at most so many videos side by side

log = logging.getLogger(__name__)


class InputError(VopError, ValueError):
    """Something given to a Retriever that it does not take; the message names it and says what is valid."""


class Retriever:
    """Texts and videos in one space: the better a video fits a text, the greater their similarity.

    Embeddings are numpy float32 of unit length, a row for each text or video in the order given, and similarity is their
    cosine. A model with another head than `mean` has the rows of that head instead, and its scores (docs/methods.md). Nothing
    in a Retriever changes after it is made, so that several threads may use one at the same time.

    experiment: what the model is and how frames are sampled; model: the torch module; device: where it computes.
    """

    def __init__(self, model: RetrievalModel, experiment: Experiment) -> None:
        self.model, self.experiment = model.eval(), experiment
        self.device = model.clip.logit_scale.device
        self.dim = model.embedding_width  # E
        self.width = model.video_width

    @classmethod
    def load(
        cls, model: Place | Adapter = ZERO_SHOT, *, device: str | torch.device = "auto", overrides: Iterable[str] = ()
    ) -> Retriever:
        """A tuned model by its adapter, or zero-shot CLIP by its name.

        model: an adapter's folder or its place on the hub, `hf://ORG/NAME[@REVISION]`, an Adapter, or a CLIP of open_clip:
        `NAME/TAG` (`ViT-B-16/laion2b_s34b_b88k`), or `NAME` for OpenAI's weights or packaged ones (`ViT-B-16`, `ViT-toy`). A
        folder that exists comes first. Frames are sampled as the adapter's experiment says; for zero-shot CLIP as by default,
        12 a video, evenly spaced.
        device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:N".
        overrides: `key=value` as on the command line, for example `frames.count=8`, or `backbone.pretrained=/path/to/weights`
        where the weights lie elsewhere than they did in training.

        Raises AdapterError for a broken adapter or one that does not fit its backbone; ConfigError for an unknown name or tag,
        a bad override, weights that cannot be had, or a device that is not there.
        """
        where = _device(device)
        found = model if isinstance(model, Adapter) else _adapter_or_zero_shot(model)
        if isinstance(found, Adapter):
            experiment = load_experiment(found.experiment.tree(), overrides)
            return cls(model_of(replace(found, experiment=experiment)).to(where), experiment)
        experiment = load_experiment(found.tree(), overrides)
        return cls(build_model(experiment).to(where), experiment)

    def __repr__(self) -> str:
        return f"Retriever({self.experiment.name!r}, dim={self.dim}, frames={self.model.frames}, device='{self.device}')"

    @torch.inference_mode()
    def embed_texts(self, texts: Iterable[str]) -> Embeddings:
        """Embeddings [M, E] of texts. A text that is too long for CLIP's context is cut as in training.

        Raises InputError for what is not a list of strings.
        """
        captions = _listed("texts", texts, (str,), "strings")
        parts = [torch.empty(0, self.dim if self.model.head.dot else 0)]
        for start in range(0, len(captions), TEXTS):
            tokens_BT = self.model.tokenize(captions[start : start + TEXTS])
            with computing(self.device):
                parts.append(self.model.encode_text(tokens_BT).cpu())
        return joined(parts).numpy()

    @torch.inference_mode()
    def embed_videos(
        self, videos: Iterable[Place], *, errors: Literal["raise", "nan"] = "raise", batch_size: int = VIDEOS
    ) -> Embeddings:
        """Embeddings [N, E] of video files: paths, or URIs that pyarrow knows. A file named twice is read once.

        errors: what a file does that cannot be read: "raise" its FrameError, which names it; "nan": its row is NaN, and the
        logger `vop.retriever` warns of it. The whole file counts, also where the benchmark of an adapter takes a part (DiDeMo's
        first 31 s). Threads decode while the model computes. Memory: the frames of about four batches, 1.8 MB per video for
        12 frames of 224 pixels.

        Raises FrameError, and InputError for what is not a list of paths.
        """
        if errors not in ("raise", "nan") or batch_size < 1:
            raise InputError(f"errors={errors!r}, batch_size={batch_size}: errors is 'raise' or 'nan', batch_size at least 1")
        paths = [os.fspath(path) for path in _listed("videos", videos, (str, os.PathLike), "paths")]
        distinct = list(dict.fromkeys(paths))
        video_NE = np.full((len(distinct), self.width), np.nan, np.float32)
        frames = self._frames(distinct, errors == "raise", batch_size)
        while batch := list(islice(frames, batch_size)):
            rows, pixels, masks = zip(*batch, strict=True)
            pixels_BFHWC, mask_BF = torch.from_numpy(np.stack(pixels)), torch.from_numpy(np.stack(masks))
            with computing(self.device):
                embedded_BE = self.model.encode_video(pixels_BFHWC.to(self.device), mask_BF.to(self.device))
            video_NE[list(rows)] = embedded_BE.cpu().numpy()
        row = {path: n for n, path in enumerate(distinct)}
        return video_NE[[row[path] for path in paths]]

    def similarity(self, texts: Iterable[str] | Embeddings, videos: Iterable[Place] | Embeddings) -> Embeddings:
        """Cosine similarities, or the head's scores, [M, N] of texts and videos, float32; each given as such or embedded.

        Raises as `embed_texts` and `embed_videos` do; InputError for embeddings of another shape than [M or N, E].
        """
        text_ME = self._embeddings("texts", texts, self.embed_texts)
        video_NE = self._embeddings("videos", videos, self.embed_videos)
        if not self.model.head.dot:
            return all_scores(text_ME, video_NE, self.model.head).numpy()
        # In fp64 first: in fp32 equal videos would not be equally similar, since BLAS sums columns in different orders.
        return (text_ME.astype(np.float64) @ video_NE.astype(np.float64).T).astype(np.float32)

    def _embeddings(self, what: str, given: Any, embed: Callable[[Any], Embeddings]) -> Embeddings:
        """What is given where that is embeddings already, else the embeddings of it."""
        if not isinstance(given, np.ndarray) or given.dtype.kind != "f":
            return embed(given)
        width = self.dim if self.model.head.dot else self.width if what == "videos" else given.shape[-1]
        if given.ndim != 2 or given.shape[1] != width:
            raise InputError(f"{what}: an array must hold embeddings [*, {width}], not {given.dtype} {list(given.shape)}")
        return given

    def _frames(self, paths: Sequence[str], fail: bool, ahead: int) -> Iterator[tuple[int, Images, Mask]]:
        """Place, frames [F, H, W, 3] and mask [F] of each video that can be read, in order, so many of them decoded ahead."""
        pool, todo = ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1), thread_name_prefix="vop-decode"), iter(paths)
        started = deque(pool.submit(self._read, path) for path in islice(todo, ahead))
        try:
            for n in range(len(paths)):
                frames = started.popleft().result()
                started.extend(pool.submit(self._read, path) for path in islice(todo, 1))
                if not isinstance(frames, FrameError):
                    yield n, *frames
                elif fail:
                    raise frames
                else:
                    log.warning("%s: its embedding is NaN", frames)
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, path: str) -> tuple[Images, Mask] | FrameError:
        """The frames that an evaluation takes: where training draws at random, the middle ones of those that it draws from."""
        config, size = self.experiment.frames, self.model.backbone.size
        how = self.model.backbone.preprocess
        drawn = config.sampling == "random"
        stored, sampling = (config.count * config.candidates, "uniform") if drawn else (config.count, config.sampling)
        try:
            frames = read_frames(
                path,
                stored,
                size,
                sampling,
                fps=config.fps,
                decoder=config.decoder,
                resize=how.resize,
                interpolation=how.interpolation,
            )
        except FrameError as error:
            return error
        picked, place_F = sample_indices(int(frames.mask_F.sum()), config.count, "uniform"), np.arange(config.count)
        return frames.pixels_FHWC[picked[np.minimum(place_F, len(picked) - 1)]], place_F < len(picked)


def _adapter_or_zero_shot(where: Place) -> Adapter | Experiment:
    """The adapter in a folder, or the zero-shot experiment of a CLIP's name."""
    if not isinstance(where, str) or is_hub(where) or (where and Path(os.path.expanduser(where)).is_dir()):
        return load_adapter(where)
    if found := zero_shot(where):
        return found
    raise ConfigError(
        f"{where!r} is neither a folder of this machine nor a CLIP of open_clip: give an adapter's folder or NAME/TAG, "
        f"for example {ZERO_SHOT}"
    )


def zero_shot(where: str) -> Experiment | None:
    """The experiment of a CLIP without tuning, by its `NAME/TAG` or `NAME`; None for what open_clip has no model of."""
    register_packaged_configs()
    known, tag = open_clip.list_models(), ""
    name = where.replace("/", "-")  # OpenAI writes ViT-B/32
    if name not in known:
        name, _, tag = where.rpartition("/")
        name = name.replace("/", "-")
    if name not in known:
        return None
    packaged = f"{name}.safetensors"
    tag = tag or (packaged if (PACKAGED / packaged).is_file() else "openai")
    tree = {"name": name, "backbone": {"name": name, "pretrained": tag}, "tuning": {"name": "zero-shot"}}
    return load_experiment(tree)


def _listed(what: str, given: Iterable[T], types: tuple[type, ...], called: str) -> list[T]:
    """What is given, as a list. InputError for a string or path where a list is meant, or an item of another type."""
    if isinstance(given, str | bytes | os.PathLike):
        raise InputError(f"{what}: give a list of {called}: [{given!r}], not {given!r}")
    items = list(given)
    for item in items:
        if not isinstance(item, types):
            raise InputError(f"{what}: expected {called}, found {item!r} ({type(item).__name__})")
    return items


def _device(name: str | torch.device) -> torch.device:
    """Where to compute. ConfigError for what is no device, or not one of this machine."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type == "cpu" or (device.type == "cuda" and (device.index or 0) < count):
        return device
    valid = ", ".join(["auto", "cpu", *(["cuda"] if count else []), *(f"cuda:{n}" for n in range(count))])
    raise ConfigError(f"device: {str(name)!r} is not a device of this machine that VoP computes on; valid: {valid}")
