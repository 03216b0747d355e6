"""Pre-trains the small CLIP of the toy world on still pictures and their captions.

    python -m vop.backbones.pretrain vop/backbones/ViT-toy.safetensors

made the weights that the repository ships (about half an hour on one core). Stills only: the model learns what is in a
picture and where, never what happens over time. Weights are stored in 16 bits.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Normalize

from vop.model.backbone import register_packaged_configs
from vop.model.loss import contrastive_loss
from vop.toy.scenes import random_still

Batch = tuple[torch.Tensor, torch.Tensor]


class Stills(Dataset[Batch]):
    """Batch i of the endless stream of stills: images [B, 3, S, S] in 0..1 and token ids [B, T]."""

    def __init__(self, name: str, batch_size: int, steps: int, seed: int):
        self.config: dict[str, Any] = open_clip.get_model_config(name)
        self.tokenizer = open_clip.get_tokenizer(name)
        self.batch_size, self.steps, self.seed = batch_size, steps, seed

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng([self.seed, step])
        stills = [random_still(rng, self.config["vision_cfg"]["image_size"]) for _ in range(self.batch_size)]
        pixels = torch.from_numpy(np.stack([image for image, _ in stills])).permute(0, 3, 1, 2) / 255
        return pixels, self.tokenizer([caption for _, caption in stills])


def pretrain(name: str, steps: int, batch_size: int, learning_rate: float, seed: int) -> open_clip.CLIP:
    """Train an open_clip model from scratch on `steps` batches of stills; prints loss and in-batch accuracy."""
    torch.manual_seed(seed)
    model = open_clip.create_model(name)
    preprocess = open_clip.get_model_preprocess_cfg(model)
    normalize = Normalize(preprocess["mean"], preprocess["std"])
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=learning_rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    warmup = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min(1.0, (i + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * i / steps))
    )
    started = time.monotonic()
    stills = Stills(name, batch_size, steps, seed)
    for step, (pixels, tokens) in enumerate(DataLoader(stills, batch_size=None, num_workers=1, prefetch_factor=4)):
        image = model.encode_image(normalize(pixels), normalize=True)
        text = encode_text(model, tokens)
        scores = image @ text.T * model.logit_scale.exp()
        loss = contrastive_loss(scores)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        if step % 50 == 0 or step == steps - 1:
            right = (scores.argmax(1) == torch.arange(batch_size)).float().mean().item()
            print(
                f"step {step:5d}  loss {loss.item():.3f}  in-batch accuracy {right:.3f}  "
                f"scale {model.logit_scale.exp().item():.1f}  {time.monotonic() - started:.0f} s",
                flush=True,
            )
    return model


def encode_text(model: open_clip.CLIP, tokens: torch.Tensor) -> torch.Tensor:
    """Unit text embeddings [B, E]. Attention is causal, so nothing after the longest caption's end token is computed."""
    length = int(tokens.argmax(dim=1).max()) + 1
    hidden = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
    hidden = model.ln_final(model.transformer(hidden, attn_mask=model.attn_mask[:length, :length]))
    hidden = hidden[torch.arange(len(tokens)), tokens.argmax(dim=1)] @ model.text_projection
    return torch.nn.functional.normalize(hidden, dim=-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--backbone", default="ViT-toy")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=160)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    register_packaged_configs()
    model = pretrain(args.backbone, args.steps, args.batch_size, args.learning_rate, args.seed)
    save_file({key: value.half().contiguous() for key, value in model.state_dict().items()}, args.output)
    print(f"{args.output}: {args.output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
