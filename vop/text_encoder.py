"""CLIP's text tower with prompts in its layers."""

from __future__ import annotations

import open_clip
import torch
from torch import Tensor, nn

from vop.block import run_block
from vop.config import TextPromptConfig, layers_of

INIT_STD = 0.02  # as in the authors' release


class TextEncoder(nn.Module):
    """Holds the text prompts and walks the frozen blocks of a CLIP with them.

    The prompts of a layer stand right after the start token. Attention is causal: the start token does not see them, all
    later tokens do. Layer 1's enter before the positional embedding, so the caption moves up by P positions.
    """

    def __init__(self, clip: open_clip.CLIP, config: TextPromptConfig):
        super().__init__()
        layers = layers_of(config.depth, len(clip.transformer.resblocks), "text_prompt.depth")
        self.layers = layers if config.length else range(0)
        self.length = config.length
        width = clip.token_embedding.embedding_dim
        self.prompts = nn.Parameter(torch.randn(len(self.layers), config.length, width) * INIT_STD)

    @property
    def shift(self) -> int:
        """By how many positions the caption moves up: what it loses of the context length."""
        return self.length if 0 in self.layers else 0

    def forward(self, clip: open_clip.CLIP, tokens_BT: Tensor) -> Tensor:
        """Token ids, zero after the end token -> text embeddings [B, E], not normalized."""
        end_B = tokens_BT.argmax(dim=1)  # the end token has the highest id
        # Attention is causal: what stands after the longest caption's end token changes nothing.
        tokens_BT = tokens_BT[:, : int(end_B.max()) + 1]
        position_TD = clip.positional_embedding
        T, shift = tokens_BT.shape[1], self.shift
        hidden_BTD = clip.token_embedding(tokens_BT)
        hidden_BTD = hidden_BTD + torch.cat([position_TD[:1], position_TD[1 + shift : T + shift]])
        causal_TT = torch.ones(T, T, dtype=torch.bool, device=tokens_BT.device).tril()
        sees_prompts_TP = (torch.arange(T, device=tokens_BT.device) > 0)[:, None].expand(T, self.length)
        prompted_TT = torch.cat([sees_prompts_TP, causal_TT], dim=1)

        blocks = clip.transformer.resblocks
        for layer, block in enumerate(blocks):
            prompts_1PD, mask = None, causal_TT
            if layer in self.layers:
                prompts_1PD, mask = self.prompts[layer - self.layers.start].unsqueeze(0), prompted_TT
                if layer == 0:
                    prompts_1PD = prompts_1PD + position_TD[1 : 1 + self.length]
            if layer == len(blocks) - 1:  # only the end token is read
                hidden_BTD = run_block(block, hidden_BTD, prompts_1PD, mask[end_B][:, None, None], rows=end_B)
            else:
                hidden_BTD = run_block(block, hidden_BTD, prompts_1PD, mask)
        out_BE: Tensor = clip.ln_final(hidden_BTD[:, 0]) @ clip.text_projection
        return out_BE
