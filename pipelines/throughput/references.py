"""What `vop throughput model` compares a training step of VoP with: other ways to compute the same loss and gradient.

Both walk open_clip's blocks with prompts as ordinary tokens: the whole context of text, every row of the last layer, all pixels
anew. The authors' way is the data flow of their release, which is for inference, with a loss behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from vop.model.loss import contrastive_loss
from vop.model.retrieval import RetrievalModel
from vop.model.walkers import visual_of

Walk = Callable[..., Tensor]  # `plain` or `authors`
Enter = Callable[[Tensor], Tensor]


def loss_of(walk: Walk, model: RetrievalModel, tokens_BT: Tensor, pixels_BFHWC: Tensor) -> Tensor:
    """The loss of B pairs, with both towers walked in one of the ways; T is all that the context leaves for captions."""
    text_BE = normalize(_text(walk, model, tokens_BT), dim=-1)
    return contrastive_loss(text_BE @ _video(walk, model, pixels_BFHWC).T * model.scale)


def plain(blocks: nn.Sequential, hidden_BLD: Tensor, prompts_KPD: Tensor, mask: Tensor | None, enter: Enter) -> Tensor:
    """Prompts behind the first token are exchanged before each layer; `enter` is behind those of the first."""
    (B, _, _), P = hidden_BLD.shape, prompts_KPD.shape[1]
    for layer, block in enumerate(blocks):
        rest = hidden_BLD[:, 1 if layer == 0 else 1 + P :]
        hidden_BLD = torch.cat([hidden_BLD[:, :1], prompts_KPD[layer].expand(B, -1, -1), rest], dim=1)
        hidden_BLD = block(enter(hidden_BLD) if layer == 0 else hidden_BLD, attn_mask=mask)
    return hidden_BLD


def authors(blocks: nn.Sequential, hidden_BLD: Tensor, prompts_KPD: Tensor, mask: Tensor | None, enter: Enter) -> Tensor:
    """As the release: prompts are put in before each layer and taken out after it, and blocks have the sequence first."""
    (B, _, _), P = hidden_BLD.shape, prompts_KPD.shape[1]
    with ExitStack() as stack:
        for layer, block in enumerate(blocks):
            stack.enter_context(patch.object(block.attn, "batch_first", False))
            prompts_BPD = prompts_KPD[layer].repeat(B, 1, 1)
            hidden_BLD = torch.cat([hidden_BLD[:, :1], prompts_BPD, hidden_BLD[:, 1:]], dim=1)
            hidden_BLD = enter(hidden_BLD) if layer == 0 else hidden_BLD
            hidden_BLD = block(hidden_BLD.transpose(0, 1), attn_mask=mask).transpose(0, 1)
            if layer < len(blocks) - 1:
                hidden_BLD = torch.cat([hidden_BLD[:, :1], hidden_BLD[:, 1 + P :]], dim=1)
    return hidden_BLD


def _text(walk: Walk, model: RetrievalModel, tokens_BT: Tensor) -> Tensor:
    """Text embeddings [B, E], not normalized."""
    clip, prompts_KPD = model.clip, model.text.prompts
    words_BTD = clip.token_embedding(tokens_BT)
    hidden_BLD = walk(clip.transformer.resblocks, words_BTD, prompts_KPD, clip.attn_mask, clip.positional_embedding.add)
    end_B = tokens_BT.argmax(dim=1) + prompts_KPD.shape[1]
    every_B = torch.arange(len(end_B), device=end_B.device)
    return torch.as_tensor(clip.ln_final(hidden_BLD)[every_B, end_B] @ clip.text_projection)


def _video(walk: Walk, model: RetrievalModel, pixels_BFHWC: Tensor) -> Tensor:
    """Video embeddings [B, E]."""
    visual = model.clip.visual
    pixels_NHWC = (pixels_BFHWC.flatten(0, 1).float() - model.mean_C) / model.std_C
    patches_NLD = visual_of(model.clip).embed(pixels_NHWC.permute(0, 3, 1, 2))
    hidden_NLD = walk(visual.transformer.resblocks, patches_NLD, model.video.prompts.generic, None, visual.ln_pre)
    frames_NE = normalize(visual.ln_post(hidden_NLD[:, 0]) @ visual.proj, dim=-1)
    return normalize(frames_NE.unflatten(0, pixels_BFHWC.shape[:2]).mean(1), dim=-1)
