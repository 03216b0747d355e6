"""open_clip's own tokenizer as the `tokenizer.json` that the library `tokenizers` reads, which needs no torch."""

from __future__ import annotations

from typing import Any

from open_clip.tokenizer import SimpleTokenizer

from vop.model.backbone import Backbone

# As in OpenAI's: contractions, runs of letters, single digits, runs of anything else; the end of a word is marked.
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def tokenizer_json(backbone: Backbone, length: int) -> dict[str, Any] | None:
    """The tokenizer of a backbone for texts of so many tokens, padded to them with 0; None for one that is not open_clip's own.

    It lowercases texts, but does not mend broken Unicode and HTML entities (`&amp;`), as open_clip does with ftfy.
    """
    own = backbone.tokenizer
    if type(own) is not SimpleTokenizer or own.reduction_fn is not None:
        return None
    start, end = (
        next(text for text, one in own.encoder.items() if one == number) for number in (own.sot_token_id, own.eot_token_id)
    )
    merges = sorted(own.bpe_ranks, key=own.bpe_ranks.__getitem__)
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": length, "strategy": "LongestFirst", "stride": 0},
        "padding": {
            **{"strategy": {"Fixed": length}, "direction": "Right", "pad_to_multiple_of": None},
            **{"pad_id": 0, "pad_type_id": 0, "pad_token": own.decoder[0]},
        },
        "added_tokens": [{"id": own.encoder[text], "content": text, **special} for text in (start, end)],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "NFC"},
                {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
                {"type": "Strip", "strip_left": True, "strip_right": True},
                {"type": "Lowercase"},
            ],
        },
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Removed", "invert": True},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": start, "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": end, "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {text: {"id": text, "ids": [own.encoder[text]], "tokens": [text]} for text in (start, end)},
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "model": {
            **{
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": "",
                "end_of_word_suffix": "</w>",
            },
            **{"fuse_unk": False, "byte_fallback": False, "ignore_merges": False},
            **{"vocab": own.encoder, "merges": [list(pair) for pair in merges]},
        },
    }
