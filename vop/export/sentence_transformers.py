"""A folder that `SentenceTransformer(FOLDER, trust_remote_code=True)` loads, and the module that it loads there.

The folder is an adapter's with two small files more, which say that its module is `Encoder` of this package. What is given to
it goes through `vop.Retriever`, so embeddings are the same. This file does not import sentence-transformers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vop.export.folder import check_embeds, new_folder, write_json
from vop.model.adapter import Adapter, adapter_of, save_adapter
from vop.retriever import InputError, Retriever

MODULE = f"{__name__}.Encoder"
# Suffixes that sentence-transformers itself takes for a video's where a string is the path of a file.
VIDEOS = (".mp4", ".avi", ".mov", ".wmv", ".flv", ".mkv")


class Encoder(nn.Module):
    """The only module of a SentenceTransformer: texts and paths of videos -> unit embeddings [N, E].

    A video is `{"video": PATH}`, a pathlib.Path, or a string that is the path of a file and ends as videos do (`VIDEOS`); any
    other string is a text. A batch may hold both.
    """

    modalities = ("text", "video")
    save_in_root = True  # sentence-transformers asks where `save` is to write

    def __init__(self, retriever: Retriever) -> None:
        super().__init__()
        check_embeds(retriever.experiment)
        self.model, self.experiment = retriever.model, retriever.experiment

    @classmethod
    def load(cls, place: str, model_kwargs: dict[str, Any] | None = None, **others: Any) -> Encoder:
        """What sentence-transformers calls with the folder, or the name of a model of the Hugging Face hub.

        model_kwargs: may have `overrides`, as of `vop.Retriever.load`. Raises as that does.
        """
        revision = others.get("revision")
        where = place if os.path.isdir(place) else f"hf://{place}" + (f"@{revision}" if revision else "")
        overrides: Iterable[str] = (model_kwargs or {}).get("overrides", ())
        return cls(Retriever.load(where, device="cpu", overrides=overrides))

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Write the adapter's files; modules.json is written by sentence-transformers."""
        save_adapter(adapter_of(self.model, self.experiment), output_path)

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Inputs sorted out. Raises InputError for what is neither a text nor a video's path."""
        return {"inputs": [_input(one, prompt or "") for one in inputs]}

    def tokenize(self, texts: Sequence[Any], **kwargs: Any) -> dict[str, Any]:
        """`preprocess`, as sentence-transformers before 5.4 calls it."""
        return self.preprocess(texts)

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Adds "sentence_embedding" [N, E], fp32, of unit length. Raises FrameError for a video that cannot be read."""
        retriever, inputs = Retriever(self.model, self.experiment), features["inputs"]
        rows_NE = torch.empty(len(inputs), retriever.dim)
        for kind, embed in (("text", retriever.embed_texts), ("video", retriever.embed_videos)):
            if places := [n for n, one in enumerate(inputs) if kind in one]:
                rows_NE[places] = torch.from_numpy(embed([inputs[n][kind] for n in places]))
        found: Tensor = rows_NE.to(retriever.device)
        return {**features, "sentence_embedding": found}

    def get_embedding_dimension(self) -> int:
        """E."""
        return self.model.embedding_width

    get_sentence_embedding_dimension = get_embedding_dimension  # its name before sentence-transformers 5.4

    @property
    def max_seq_length(self) -> int:
        """Tokens of a text that are read."""
        return self.model.backbone.context_length - self.model.text.shift


def _input(given: Any, prompt: str) -> dict[str, str]:
    """{"text": ...} or {"video": path}."""
    if isinstance(given, dict) and len(given) == 1:
        (kind, value), *_ = given.items()
        if kind == "video" and isinstance(value, str | os.PathLike):
            return {"video": os.fspath(value)}
        given = value if kind == "text" else given
    if isinstance(given, os.PathLike):
        return {"video": os.fspath(given)}
    if isinstance(given, str):
        return {"video": given} if given.lower().endswith(VIDEOS) and os.path.isfile(given) else {"text": prompt + given}
    raise InputError(f"expected a text, or a video as {{'video': PATH}}, found {type(given).__name__} {str(given)[:200]!r}")


def write(adapter: Adapter, place: str | os.PathLike[str]) -> Path:
    """Write the folder; returns it. Raises ExportError for another head than `mean` and for a folder that is not empty."""
    check_embeds(adapter.experiment)
    with new_folder(place) as folder:
        save_adapter(adapter, folder)
        write_json(folder / "modules.json", [{"idx": 0, "name": "0", "path": "", "type": MODULE}])
        about = {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine"}
        write_json(folder / "config_sentence_transformers.json", about)
    return folder
