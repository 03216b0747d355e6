"""Commands that hand a tuned model on: to other libraries, and to others."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import typer

from pipelines.cli.arguments import AdapterPlace, Overrides
from pipelines.cli.say import say

FORMS = {"sentence-transformers": "sentence_transformers", "onnx": "onnx", "peft": "peft"}
License = Annotated[str, typer.Option(help="of the weights, as hubs name it, such as apache-2.0: for the README.md")]


def export(
    adapter: AdapterPlace,
    folder: Annotated[Path, typer.Argument(help="a folder that is new or empty")],
    to: Annotated[Literal["sentence-transformers", "onnx", "peft"], typer.Option(help="the form")],
    overrides: Overrides = None,
    license: License = "",
) -> None:
    """Write a tuned model as a folder that another library loads.

    sentence-transformers: texts and videos to embeddings. onnx: both towers, compared with torch first. peft: LoRA alone.
    """
    from pipelines.score.adapters import find_adapter
    from vop.export.readme import write_readme

    found = find_adapter(adapter, overrides or [])
    written = import_module(f"vop.export.{FORMS[to]}").write(found, folder)
    write_readme(found, written, to, license)
    say("{} {}", to, written)


def push(
    adapter: AdapterPlace,
    to: Annotated[str, typer.Argument(help="hf://ORG/NAME[@REVISION], a model on the Hugging Face hub, new or not")],
    overrides: Overrides = None,
    license: License = "",
    private: Annotated[bool, typer.Option("--private", help="a new model is for its owners alone")] = False,
) -> None:
    """Upload an adapter to the Hugging Face hub, with a README.md, as a folder that sentence-transformers loads too."""
    from pipelines.score.adapters import find_adapter
    from vop.export.readme import write_readme
    from vop.export.sentence_transformers import write
    from vop.model.adapter import save_adapter
    from vop.model.head import is_dot
    from vop.model.hub import named, pushed

    named(to)
    found = find_adapter(adapter, overrides or [])
    with TemporaryDirectory(prefix="vop-") as scratch:
        embeds = is_dot(found.experiment.head)
        folder = write(found, scratch) if embeds else save_adapter(found, scratch)
        write_readme(found, folder, "sentence-transformers" if embeds else "", license)
        say("{}", pushed(folder, to, private))
