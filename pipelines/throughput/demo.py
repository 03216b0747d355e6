"""`vop throughput demo`: the demo with linear layers of frozen weights by oneDNN, against those by MKL, in one run."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from pipelines.throughput.data import Measurement
from pipelines.throughput.sweep import command_seconds, epoch_seconds
from vop.model.frozen import VARIABLE, WAYS


def measure(rounds: int) -> list[Measurement]:
    """Medians over the rounds, after one by MKL that is not kept, since it decodes. CPU time is that of all processes."""
    whole: dict[str, list[float]] = {way: [] for way in WAYS}
    epochs: dict[str, list[float]] = {way: [] for way in WAYS}
    mkl, onednn = WAYS
    with tempfile.TemporaryDirectory(prefix="vop-demo-") as scratch:
        for number, way in enumerate([mkl, *WAYS * rounds]):
            output = Path(scratch, str(number))
            words = ["demo", f"data.cache={scratch}/cache", f"tracking.output={output}"]
            spent = sum(command_seconds(words, **{VARIABLE: way}).values())
            if number:
                whole[way].append(spent)
                epochs[way].append(epoch_seconds(output))
    return [
        Measurement("the demo by MKL: CPU seconds", f"{statistics.median(whole[mkl]):.0f}"),
        Measurement("of them in epochs, on the first of two workers", f"{statistics.median(epochs[mkl]):.0f}"),
        Measurement("the demo by oneDNN over that by MKL, CPU time", f"{_ratio(whole[onednn], whole[mkl]):.2f}"),
        Measurement("these epochs by oneDNN over those by MKL, CPU time", f"{_ratio(epochs[onednn], epochs[mkl]):.2f}"),
    ]


def _ratio(these: list[float], those: list[float]) -> float:
    return statistics.median(this / that for this, that in zip(these, those, strict=True))
