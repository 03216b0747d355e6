"""A folder that both PEFT and this project read: LoRA's tensors in PEFT's layout, and the adapter's card beside them."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from safetensors.torch import save

from vop.export.folder import ExportError, new_folder, write_json
from vop.model.adapter import Adapter, write_card
from vop.model.card import PEFT_CONFIG, PEFT_TENSORS
from vop.model.low_rank import peft_config, to_peft
from vop.places import told


def write(adapter: Adapter, place: str | PathLike[str]) -> Path:
    """Write the folder; returns it. Raises ExportError for another method than LoRA, and for a folder that is not empty."""
    tuning, head = adapter.experiment.tuning.name, adapter.experiment.head.name
    if tuning != "lora" or head != "mean":
        raise ExportError(f"tuning.name={tuning}, head.name={head}: PEFT has tuning.name=lora, head.name=mean alone")
    if adapter.experiment.video_encoder.split_layer is not None:
        raise ExportError("video_encoder.split_layer: PEFT has no layers that attend over all frames; valid: null")
    shapes = {name: list(tensor.shape) for name, tensor in adapter.tensors.items()}
    with new_folder(place) as folder:
        with told(str(folder)):
            (folder / PEFT_TENSORS).write_bytes(save(to_peft(adapter.tensors), metadata={"format": "pt"}))
        write_json(folder / PEFT_CONFIG, peft_config(adapter.experiment, shapes))
        write_card(adapter, folder)
    return folder
