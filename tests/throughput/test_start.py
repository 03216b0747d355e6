"""What `vop throughput start` counts."""

from __future__ import annotations

import torch  # noqa: F401  (more memory than a command that says its version)

from pipelines.throughput.start import _cost


def test_the_memory_of_a_command_is_its_own() -> None:
    cpu, mib = _cost(["--version"])
    assert cpu > 0 and 10 < mib < 150
