"""Contracts of what a model is made of: kinds of video prompts, tuning protocols, heads."""

from __future__ import annotations

import copy
import dataclasses
import functools
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vop.config import BackboneConfig, HeadConfig, TuningConfig, VideoPromptConfig, kind, load_experiment
from vop.model.adapter import adapter_of, load_adapter, model_of, save_adapter
from vop.model.backbone import Backbone, load_backbone
from vop.model.head import FrameStage, Head
from vop.model.loss import contrastive_loss
from vop.model.retrieval import RetrievalModel, build_model
from vop.prompts import VideoPrompts

CLIP = BackboneConfig(name="ViT-toy", pretrained="ViT-toy.safetensors")
CLIP_WIDTH = 64  # of its visual tokens
PAIRS, FRAMES = 3, 4
CAPTIONS = ["a red circle grows", "a dog", "two green squares on a blue wall"]


class _ModelContract:
    """What holds of every model that a kind makes; `section` names the kind's section of an experiment."""

    section = ""
    unseen: tuple[str, ...] = ()  # trained parameters that change no result, such as a bias in front of a softmax

    def model(self, name: str, *overrides: str) -> RetrievalModel:
        """The model of a kind, with its default fields; redefine it for a kind whose fields have no default."""
        tree: dict[str, Any] = {"backbone": CLIP.model_dump(), "frames": {"count": FRAMES}, self.section: {"name": name}}
        self.experiment = load_experiment(tree, overrides)
        return build_model(self.experiment, _backbone())

    def test_it_learns_and_changes_nothing_else(self, name: str) -> None:
        """After three steps what is trained has changed, all of it, and nothing else; every score stays a number."""
        model = self.model(name)
        trainable, before = model.trainable(), {key: value.clone() for key, value in model.state_dict().items()}
        optimizer = torch.optim.Adam(trainable.values(), lr=1e-3) if trainable else None
        # What feeds a matrix of zeros has no gradient at first, nor in the second step what feeds one that feeds another.
        for _ in range(3 if optimizer else 0):
            text_BS, video_BR = model(*_batch(model))
            contrastive_loss(model.scale * model.head.scores(text_BS, video_BR)).backward()
            assert optimizer is not None
            optimizer.step()
        changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
        said = f"changed: {sorted(changed)}; to be trained: {sorted(trainable)}"
        assert changed <= set(trainable) <= changed | set(self.unseen), said
        with torch.no_grad():
            rows = model(*_batch(model))
            assert model.head.scores(*rows).isfinite().all()
            for row_BE in rows if model.head.dot else ():
                torch.testing.assert_close(row_BE.norm(dim=-1), torch.ones(PAIRS))

    def test_a_seed_gives_the_same_weights(self, name: str) -> None:
        """And building a model leaves torch's own random numbers alone."""
        _loaded()  # which draws random numbers of its own
        state = torch.random.get_rng_state()
        first, again = self.model(name, "seed=1"), self.model(name, "seed=1")
        assert torch.equal(state, torch.random.get_rng_state())
        for key, parameter in first.trainable().items():
            assert torch.equal(parameter, again.trainable()[key]), f"{key} is not set by the seed"

    def test_a_video_does_not_depend_on_the_rest_of_its_batch(self, name: str) -> None:
        """To rounding, with frames of padding too."""
        model = _disturbed(self.model(name))
        pixels, mask, _ = _batch(model)
        with torch.no_grad():
            together = model.encode_video(pixels, mask)
            for video in range(PAIRS):
                alone = model.encode_video(pixels[video : video + 1], mask[video : video + 1])
                torch.testing.assert_close(alone[0], together[video], atol=1e-5, rtol=0 if model.head.dot else 1e-4)

    def test_an_adapter_rebuilds_the_model(self, name: str) -> None:
        """To the last bit, from its two files."""
        model = _disturbed(self.model(name))
        with tempfile.TemporaryDirectory() as folder:
            rebuilt = model_of(load_adapter(save_adapter(adapter_of(model, self.experiment), Path(folder))), _backbone())
        with torch.no_grad():
            for expected, found in zip(model(*_batch(model)), rebuilt(*_batch(model)), strict=True):
                assert torch.equal(expected, found)


class VideoPromptContract(_ModelContract):
    """What a kind of video prompt keeps to: a file of `vop.prompts`, tested by its name (`video_prompt.name`)."""

    section = "video_prompt"

    def test_its_file_has_what_a_kind_has(self, name: str) -> None:
        """A docstring, `Prompts` and, if it has fields of its own, `Config`."""
        module = kind("video_prompt", name)
        assert module.__doc__, "say in the file's docstring what the kind is"
        assert issubclass(module.Prompts, VideoPrompts)
        assert issubclass(getattr(module, "Config", VideoPromptConfig), VideoPromptConfig)

    def test_prompts_have_their_shape(self, name: str) -> None:
        """`length` prompts in each prompted layer: for all frames, for each frame, or for each frame of each video."""
        prompts = self.model(name, "video_prompt.length=5", "video_prompt.depth=2-4").video.prompts
        cls_BFD = torch.randn(PAIRS, FRAMES, CLIP_WIDTH, generator=torch.Generator().manual_seed(0))
        for layer in range(3):
            shape = tuple(prompts(layer, cls_BFD).shape)
            assert shape in {(sets, 5, CLIP_WIDTH) for sets in (1, FRAMES, PAIRS * FRAMES)}, f"layer {layer}: {shape}"
            assert prompts.replace_cls(layer, cls_BFD).shape == cls_BFD.shape


class TuningContract(_ModelContract):
    """What a tuning protocol keeps to: a file of `vop.tuning`, tested by its name (`tuning.name`)."""

    section = "tuning"

    def test_its_file_has_what_a_kind_has(self, name: str) -> None:
        """A docstring, `apply`, a learning rate and, if it has fields of its own, `Config`."""
        module = kind("tuning", name)
        assert module.__doc__, "say in the file's docstring what is trained"
        assert callable(module.apply)
        assert issubclass(getattr(module, "Config", TuningConfig), TuningConfig)
        trains = bool(self.model(name).trainable())
        assert 1e-6 <= module.LEARNING_RATE <= 1 if trains else module.LEARNING_RATE == 0


class HeadContract(_ModelContract):
    """What a head keeps to: a file of `vop.heads`, tested by its name (`head.name`); a chain of several has one too."""

    section = "head"

    def test_its_file_has_what_a_kind_has(self, name: str) -> None:
        """A docstring, `Head` or `Stage`, a learning rate and, if it has fields of its own, `Config`."""
        module = kind("head", name.split("+")[-1])
        assert module.__doc__, "say in the file's docstring what the head is"
        found = [issubclass(getattr(module, part, object), of) for part, of in (("Head", Head), ("Stage", FrameStage))]
        assert sum(found) == 1, "a file has one of them: `Head`, an interaction, or `Stage`, which comes before one"
        assert issubclass(getattr(module, "Config", HeadConfig), HeadConfig)
        trains = any(key.startswith(("head.", "stages.")) for key in self.model(name).trainable())
        assert 1e-6 <= module.LEARNING_RATE <= 1 if trains else module.LEARNING_RATE == 0

    def test_scores_are_those_of_each_pair(self, name: str) -> None:
        """In any chunks, with any zeros behind a text's row, in double as in float; none is beyond `limit`."""
        model = _disturbed(self.model(name))
        with torch.no_grad():
            text_BS, video_BR = model(*_batch(model))
            scores_BB = model.head.scores(text_BS, video_BR)
            assert scores_BB.shape == (PAIRS, PAIRS) and scores_BB.abs().max() <= model.head.limit + 1e-5
            assert text_BS.dtype == video_BR.dtype == torch.float32 and model.head.numbers_per_pair(text_BS.shape[1]) > 0
            wider_BS = torch.nn.functional.pad(text_BS, (0, 3 * text_BS.shape[1] if model.head.tokens else 0))
            for text in range(PAIRS):
                found_1B = model.head.scores(wider_BS[text : text + 1], video_BR)
                torch.testing.assert_close(found_1B[0], scores_BB[text], atol=1e-5, rtol=0)
            for video in range(PAIRS):
                found_B1 = model.head.scores(text_BS, video_BR[video : video + 1])
                torch.testing.assert_close(found_B1[:, 0], scores_BB[:, video], atol=1e-5, rtol=0)
            double_BB = copy.deepcopy(model.head).double().scores(text_BS.double(), video_BR.double())
            torch.testing.assert_close(double_BB.float(), scores_BB, atol=1e-5, rtol=0)

    def test_frames_of_padding_change_nothing(self, name: str) -> None:
        """Whatever they show."""
        model = _disturbed(self.model(name))
        pixels, mask, tokens = _batch(model)
        other = pixels.clone()
        other[~mask] = 255 - other[~mask]
        with torch.no_grad():
            text_BS = model.encode_text(tokens)
            first, second = (model.head.scores(text_BS, model.encode_video(x, mask)) for x in (pixels, other))
        torch.testing.assert_close(first, second, atol=1e-6, rtol=0)

    def test_rows_are_not_random(self, name: str) -> None:
        """In training too: with `training.chunk_size` they are computed twice."""
        model = _disturbed(self.model(name))
        model.stages.train()
        model.head.train()
        with torch.no_grad():
            for first, second in zip(model(*_batch(model)), model(*_batch(model)), strict=True):
                assert torch.equal(first, second)


@functools.cache
def _loaded() -> Backbone:
    return load_backbone(CLIP)


def _backbone() -> Backbone:
    """The tiny CLIP, a copy: a kind may change it."""
    return dataclasses.replace(_loaded(), clip=copy.deepcopy(_loaded().clip))


def _batch(model: RetrievalModel) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels [B, F, H, W, C], a mask with two frames of padding, token ids."""
    size, generator = model.backbone.size, torch.Generator().manual_seed(0)
    pixels_BFHWC = torch.randint(0, 256, (PAIRS, FRAMES, size, size, 3), dtype=torch.uint8, generator=generator)
    mask_BF = torch.ones(PAIRS, FRAMES, dtype=torch.bool)
    mask_BF[0, 2:] = False
    return pixels_BFHWC, mask_BF, model.tokenize(CAPTIONS)


def _disturbed(model: RetrievalModel) -> RetrievalModel:
    """What is trained moved away from its start, as after a training."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.trainable().values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model
