"""LoRA's tensors in the layout of PEFT (Hugging Face), exactly: `adapter_config.json` and `adapter_model.safetensors`.

A fused weight of queries, keys and values has two changes of rank r, of the query and the value rows. PEFT has one change a
module, so there they are one of rank 2r whose `lora_B` is zero elsewhere; its alpha is doubled, so the scale stays the same. It
also changes the output projection of torch's attention, for which zeros are written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vop.config import Experiment
from vop.errors import AdapterError
from vop.model.card import CARD_BYTES, PEFT_CONFIG, PEFT_TENSORS, SHOWN, TENSORS, file_of, strict_json

NAME = re.compile(r"clip\.(.+)\.parametrizations\.(\w+)\.0\.(down|up)")
PREFIX = "base_model.model"
FUSED = "in_proj_weight"  # of torch's MultiheadAttention, beside which PEFT changes `out_proj`


def is_peft(folder: Path) -> bool:
    """Whether a folder's tensors are in PEFT's layout alone."""
    return (folder / PEFT_TENSORS).is_file() and not (folder / TENSORS).exists()


def modules_of(names: Iterable[str]) -> dict[str, str]:
    """{module: name of its weight} that LoRA's tensors change. Raises AdapterError for a tensor of another method."""
    found: dict[str, str] = {}
    for name in names:
        if not (parts := NAME.fullmatch(name)):
            raise AdapterError(f"tensor {name} is not LoRA's: PEFT's layout is for tuning.name=lora alone")
        found[parts[1]] = parts[2]
    return found


def peft_config(experiment: Experiment, shapes: Mapping[str, list[int]]) -> dict[str, Any]:
    """`adapter_config.json` of tensors by name with these shapes."""
    rank, alpha, backbone = experiment.tuning.rank, experiment.tuning.alpha, experiment.backbone  # type: ignore[attr-defined]
    modules = modules_of(shapes)
    once = [module for module, weight in modules.items() if shapes[_own(module, weight, "down")][0] == 1]
    number = int if float(alpha).is_integer() else float
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": f"{backbone.name}/{backbone.pretrained}",
        "r": 2 * rank,
        "lora_alpha": number(2 * alpha),
        "rank_pattern": dict.fromkeys(once, rank),
        "alpha_pattern": dict.fromkeys(once, number(alpha)),
        "target_modules": sorted(modules),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
        "inference_mode": True,
    }


def peft_shapes(shapes: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """The tensors that PEFT's file has, by name, where ours have these shapes."""
    found = {}
    for module, weight in modules_of(shapes).items():
        changes, rank, width = shapes[_own(module, weight, "down")]
        rows = 3 * width if changes == 2 else width
        found[f"{PREFIX}.{module}.lora_A.weight"] = [changes * rank, width]
        found[f"{PREFIX}.{module}.lora_B.weight"] = [rows, changes * rank]
        if weight == FUSED:
            found[f"{PREFIX}.{module}.base_layer.out_proj.lora_A.weight"] = [changes * rank, width]
            found[f"{PREFIX}.{module}.base_layer.out_proj.lora_B.weight"] = [width, changes * rank]
    return found


def to_peft(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An adapter's tensors in PEFT's layout."""
    found = {name: torch.zeros(shape) for name, shape in peft_shapes(_shapes(tensors)).items()}
    for module, weight in modules_of(tensors).items():
        down_CRD, up_CDR = (tensors[_own(module, weight, part)] for part in ("down", "up"))
        found[f"{PREFIX}.{module}.lora_A.weight"] = down_CRD.flatten(0, 1).contiguous()
        for place, up_DR in zip(_places(up_CDR.shape), up_CDR, strict=True):
            found[f"{PREFIX}.{module}.lora_B.weight"][place] = up_DR
    return found


def from_peft(tensors: Mapping[str, Tensor], shapes: Mapping[str, list[int]]) -> dict[str, Tensor]:
    """An adapter's tensors, of these shapes, out of PEFT's. Raises AdapterError for changes of rows that LoRA here leaves."""
    found = {}
    for module, weight in modules_of(shapes).items():
        down, up = (_own(module, weight, part) for part in ("down", "up"))
        found[down] = tensors[f"{PREFIX}.{module}.lora_A.weight"].reshape(shapes[down]).contiguous()
        whole = tensors[f"{PREFIX}.{module}.lora_B.weight"]
        found[up] = torch.stack([whole[place] for place in _places(torch.Size(shapes[up]))]).contiguous()
    again = to_peft(found)
    for name, tensor in tensors.items():
        if name.endswith("lora_B.weight") and not torch.equal(again[name], tensor):
            raise AdapterError(
                f"{PEFT_TENSORS}: tensor {name} changes keys, the output projection, or queries and values together, which "
                "tuning.name=lora here does not: the adapter can be used with PEFT alone"
            )
    return found


def check_config(folder: Path, experiment: Experiment, shapes: Mapping[str, list[int]]) -> None:
    """Raise AdapterError where `adapter_config.json` says other ranks, scales or modules than the adapter's card."""
    file = file_of(folder, PEFT_CONFIG)
    try:
        if file.stat().st_size > CARD_BYTES:
            raise ValueError(f"{file.stat().st_size:,} bytes, it has at most {CARD_BYTES:,}")
        said = strict_json(file.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise AdapterError(f"{file} is not PEFT's: {str(error)[:SHOWN]}") from None
    if isinstance(modules := said.get("target_modules"), list):
        said["target_modules"] = sorted(map(str, modules))
    expected = peft_config(experiment, shapes)
    for key in sorted(expected.keys() - {"base_model_name_or_path", "inference_mode", "task_type", "lora_dropout"}):
        if said.get(key) != expected[key]:
            raise AdapterError(f"{file}: {key}: expected {str(expected[key])[:SHOWN]}, found {str(said.get(key))[:SHOWN]}")


def _own(module: str, weight: str, part: str) -> str:
    return f"clip.{module}.parametrizations.{weight}.0.{part}"


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


def _places(up_CDR: torch.Size) -> list[tuple[slice, slice]]:
    """Where in `lora_B` each change is: queries first, values last."""
    changes, width, rank = up_CDR
    rows = [slice(width), slice(2 * width, 3 * width)][:changes]
    return [(place, slice(n * rank, (n + 1) * rank)) for n, place in enumerate(rows)]
