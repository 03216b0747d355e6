"""The sections of an experiment, each with its keys: types, defaults, limits and meanings."""

from __future__ import annotations

import codecs
import re
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Section(BaseModel):
    """A part of an experiment: frozen; an unknown key is an error, and so is a value of another type (true is no number)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _text(cls, value: Any) -> Any:
        if isinstance(value, str) and "\0" in value:
            raise ValueError("a NUL character, which no name and no place has")
        return value


class BackboneConfig(Section):
    """The frozen CLIP."""

    name: str = Field("ViT-B-32", description="a name of open_clip's own list, such as ViT-B-32, ViT-B-16, ViT-L-14")
    pretrained: str = Field("openai", description="its weights: a tag of open_clip's, a file, or `random` (for tests)")
    quick_gelu: bool | None = Field(
        None,
        description="OpenAI's activation; null: as the tag asks for. A file does not tell: say it where weights of both kinds "
        "exist",
    )
    preprocess: str | None = Field(
        None,
        description="the tag of open_clip (TAG, or NAME/TAG of another model) whose resizing and normalizing of frames the "
        "weights were trained with; null: that of their own tag. A file does not tell: say it where tags differ",
    )


class FramesConfig(Section):
    """Which frames of a video are read (`vop/video/frames.py`)."""

    count: int = Field(12, ge=1, le=1024, description="frames that the model sees of a video")
    sampling: Literal["uniform", "random", "fps"] = Field(
        "uniform",
        description="uniform: evenly spread; fps: so many in a second; random: each training step draws one of `candidates` "
        "frames in each of `count` segments, evaluation takes the middle ones",
    )
    candidates: int = Field(
        3, ge=1, le=1024, description="frames stored for each of `count`: sampling=random draws out of them"
    )
    fps: float = Field(1.0, gt=0, description="frames in a second, for sampling=fps")
    decoder: Literal["auto", "decord", "pyav"] = Field("auto", description="what decodes; auto: PyAV")
    incomplete: Literal["refuse", "take"] = Field(
        "refuse",
        description="a video that lacks frames it promises (cut off, damaged): refuse it, or take those that are there",
    )


class BenchmarkConfig(Section):
    """A benchmark (`vop/benchmarks/`). A kind may add fields."""

    name: str = Field("toy", description="which benchmark")
    videos: str = Field("", description="the folder of its videos, searched at any depth, or a URI (s3://, gs://, ...)")
    annotations: str = Field("", description="the folder of its annotation files")
    encoding: str = Field("utf-8", description="of the annotation files")
    shared_videos: Literal["refuse", "allow"] = Field(
        "refuse", description="videos with the same bytes in two splits: refuse them before work, or allow them"
    )

    @field_validator("encoding")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            return codecs.lookup(value).name
        except LookupError:
            raise ValueError(f"no encoding is called {value!r}; for example utf-8, utf-16, latin-1, cp1252, gb18030") from None


class PromptConfig(Section):
    """Prompts of an encoder."""

    length: int = Field(8, ge=0, le=1024, description="prompt tokens in each layer of `depth`; 0: none")
    depth: str = Field(
        "all",
        pattern=r"^(all|[1-9]\d*-[1-9]\d*)$",
        description='the layers that have prompts: "all", or "i-j", counted from 1 at the input',
    )


class TextPromptConfig(PromptConfig):
    """Prompts of the text encoder."""

    suffix: int = Field(
        0,
        ge=0,
        le=1024,
        description="so many of `length` stand before the last place, as in the authors' release (`vop/paper/release.py`)",
    )

    @model_validator(mode="after")
    def _suffix_within_length(self) -> Self:
        if self.suffix > self.length:
            raise ValueError(f"suffix {self.suffix} is more than length {self.length}")
        if self.suffix and self.depth != "all":
            raise ValueError(f"suffix {self.suffix} needs depth all: the release prompts every layer; given depth {self.depth}")
        return self


class VideoPromptConfig(PromptConfig):
    """Prompts of the video encoder (`vop/prompts/`). A kind may add fields."""

    name: str = Field("shared", description="which kind of prompt")


class VideoEncoderConfig(Section):
    """How the video encoder attends."""

    split_layer: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="K_s of VoP^F: layers 1 to K_s attend inside a frame, those above across the video; null: no split",
    )


class TuningConfig(Section):
    """What is trained (`vop/tuning/`). A kind may add fields."""

    name: str = Field("prompts", description="which tuning protocol; several are joined by +: `prompts+lora`")

    @field_validator("name")
    @classmethod
    def _combined(cls, name: str) -> str:
        parts = name.split("+")
        if twice := next((part for part in parts if parts.count(part) > 1), None):
            raise ValueError(f"{name!r} has {twice} twice")
        if len(parts) > 1 and "zero-shot" in parts:
            raise ValueError(f"{name!r}: zero-shot trains nothing, so it cannot be combined")
        return name


class HeadConfig(Section):
    """What turns frame and text embeddings into scores (`vop/heads/`). A kind may add fields."""

    name: str = Field("mean", description="which head; frame stages come first, joined by +: `seqtransf+wti`")


class TrainingConfig(Section):
    """Optimisation; the defaults are the paper's (section 4.1)."""

    epochs: int = Field(5, ge=0, le=100_000, description="times that every caption of every training video is seen")
    batch_size: int = Field(32, ge=1, description="pairs in a step, over all workers")
    captions_per_video: int = Field(
        0, ge=0, description="at most so many captions of a video in an epoch, others in the next; 0: all of them"
    )
    learning_rate: float | None = Field(
        None, gt=0, description="the highest, after warm-up; null: that of each tuning protocol"
    )
    head_learning_rate: float | None = Field(
        None, gt=0, description="the same for what a head trains; null: the head's own, of each part of a chain"
    )
    weight_decay: float = Field(0.2, ge=0, description="of AdamW")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of all steps")
    loss: Literal["contrastive", "sigmoid"] = Field(
        "contrastive",
        description="contrastive: CLIP's, for which texts and videos compete; sigmoid: SigLIP's, each pair by itself, for a "
        "CLIP that has a logit bias",
    )
    precision: Literal["fp32", "tf32", "bf16"] = Field(
        "fp32", description="of the model's arithmetic; tf32: on GPUs, products of factors with 10 bits; bf16: autocast"
    )
    checkpointing: bool = Field(
        False, description="keep less for the backward pass and compute it again: exact, less memory, slower"
    )
    chunk_size: int | None = Field(
        None,
        ge=1,
        description="so many pairs of a worker at a time, for the gradient of the whole batch in the memory of a chunk: exact, "
        "slower; null: all at once",
    )
    select: Literal["val", "test"] = Field("val", description="the split that chooses the best epoch")


class DataConfig(Section):
    """Where frames come from, and what to do with videos that cannot be read."""

    cache: str = Field("~/.cache/vop", description="where the frame store is: a folder, or a URI (s3://, gs://, ...)")
    store: bool = Field(
        True,
        description="false: decode the training videos each time they are needed; only validation and test frames are stored",
    )
    codec: Literal["raw", "lz4", "zstd", "jpeg"] = Field(
        "raw", description="of the frames in the store; jpeg loses some (see `vop throughput data`)"
    )
    jpeg_quality: int = Field(90, ge=1, le=100, description="for codec=jpeg")
    ahead: int = Field(2, ge=1, description="batches read or decoded ahead of training; memory: two more than that, a worker")
    readers: int = Field(
        8, ge=1, description="videos that a worker reads from the store at once; 16 to 32 where it is on object storage"
    )
    local_gb: float = Field(
        0,
        ge=0,
        description="disk of each node for shards of a store that is elsewhere (`data.cache` is a URI): fetched while training "
        "begins, and read there in later epochs and runs; 0: none",
    )
    activations_gb: float = Field(
        20,
        ge=0,
        description="disk for what the layers below the first prompt make of the training videos, computed once and reused in "
        "every epoch and run; 0: never",
    )
    max_failed_fraction: float = Field(
        0.02, ge=0, le=1, description="share of the videos that may be unreadable; above it nothing is trained"
    )


class ResourcesConfig(Section):
    """What a training takes of the cluster."""

    num_workers: int | str = Field(
        1,
        description="processes that train together, each on its share of a batch; `2-8`: at least 2, and up to 8 while the "
        "cluster has room for them, with the same loss",
    )
    cpus_per_worker: float = Field(1.0, gt=0, description="CPUs that each worker takes")
    use_gpu: bool | None = Field(None, description="a GPU for each worker; null: where the cluster has one for each")
    gpus_per_worker: float = Field(
        1.0, gt=0, le=1, description="share of a GPU that a worker takes; 0.25: four trials of a sweep on each GPU"
    )
    max_failures: int = Field(
        3, ge=0, description="times that a training whose worker or node died goes on from its last checkpoint by itself"
    )

    @field_validator("num_workers", mode="before")
    @classmethod
    def _number_or_range(cls, value: Any) -> Any:
        """A number as such, also one that is text (as MLflow keeps it); a range as text."""
        number = re.fullmatch(r"([1-9]\d{0,5})(?:-([1-9]\d{0,5}))?", str(value))
        if isinstance(value, bool) or not number or int(number[1]) > int(number[2] or number[1]):
            raise ValueError(f"{value!r:.100} is neither a number from 1 on, such as 2, nor a range of two such as 2-8")
        return int(number[1]) if number[2] in (None, number[1]) else value

    @property
    def fewest(self) -> int:
        """Workers that a training needs."""
        return int(str(self.num_workers).partition("-")[0])

    @property
    def most(self) -> int:
        """Workers that a training takes where there is room."""
        return int(str(self.num_workers).rpartition("-")[2])


class TrackingConfig(Section):
    """Where runs are kept."""

    experiment: str = Field("vop", description="the MLflow experiment")
    uri: str = Field("", description="MLflow's address; empty: MLFLOW_TRACKING_URI, or else an SQLite file in `output`")
    output: str = Field(
        "runs",
        description="adapters, checkpoints, reports, the default tracking database: a folder, or a URI (s3://, gs://, ...)",
    )
