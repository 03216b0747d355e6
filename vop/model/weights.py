"""A file of weights -> its tensors by name. No code that a file holds is run: not of a pickle, not of a TorchScript archive."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

DTYPES = {
    **{"DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16},
    **{"BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32, "ShortStorage": torch.int16},
    **{"CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool},
}


def read_state(file: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, of what `torch.save` wrote, or of a TorchScript archive (OpenAI's own .pt files).

    Raises many kinds of errors for what is none of them.
    """
    if file.suffix == ".safetensors":
        return load_file(file)
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            root = next((name.removesuffix("constants.pkl") for name in archive.namelist() if _is_constants(name)), None)
            if root is not None:
                return _Archive(archive, root).state()
    state = torch.load(file, map_location="cpu", weights_only=True)
    state = state.get("state_dict", state)
    return {key.removeprefix("module."): value for key, value in state.items()}


def _is_constants(name: str) -> bool:
    return name.count("/") == 1 and name.endswith("/constants.pkl")  # which `torch.save` does not write


class _Module:
    """Stands for an object of a class that the archive brings; its attributes, and none of its code."""

    attributes: Mapping[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, Mapping) else {}


class _Archive(pickle.Unpickler):
    """Reads the objects of a TorchScript archive; all that its pickle may name is here, and does nothing but hold data."""

    def __init__(self, archive: zipfile.ZipFile, root: str):
        super().__init__(io.BytesIO(archive.read(f"{root}data.pkl")))
        self.archive, self.root = archive, root
        self.storages: dict[str, Tensor] = {}

    def state(self) -> dict[str, Tensor]:
        """All tensors, by the attributes that lead to them."""
        found, seen, todo = dict[str, Tensor](), set[int](), [("", self.load())]
        while todo:
            prefix, module = todo.pop()
            if id(module) in seen:
                continue
            seen.add(id(module))
            for name, value in module.attributes.items():
                if isinstance(value, Tensor):
                    found[f"{prefix}{name}"] = value
                elif isinstance(value, _Module):
                    todo.append((f"{prefix}{name}.", value))
        return found

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the pickle stands for."""
        if module.split(".")[0] == "__torch__":
            return _Module
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if f"{module}.{name}" in HARMLESS:
            return HARMLESS[f"{module}.{name}"]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no file of weights needs")

    def persistent_load(self, pid: Any) -> Tensor:
        """The flat numbers that a tensor looks into."""
        _, dtype, key, _, count = pid
        if key not in self.storages:
            info = self.archive.getinfo(f"{self.root}data/{key}")
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != count * dtype.itemsize:
                raise pickle.UnpicklingError(f"storage {key} is not {count} numbers of {dtype}")
            self.storages[key] = torch.frombuffer(bytearray(self.archive.read(info)), dtype=dtype) if count else torch.empty(0)
        return self.storages[key]


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: Any) -> Tensor:
    return torch.as_strided(storage, size, stride, offset)  # checks the bounds


def _same(value: Any, *rest: Any) -> Any:
    return value


HARMLESS = {
    "torch._utils._rebuild_tensor_v2": _tensor,
    "collections.OrderedDict": OrderedDict,
    "torch.jit._pickle.restore_type_tag": _same,
    **{f"torch.jit._pickle.build_{kind}list": _same for kind in ("int", "bool", "double", "tensor")},
}
