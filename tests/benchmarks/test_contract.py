"""What every benchmark keeps to (`vop.testing`): its records, its published numbers, a missing or broken file named."""

from __future__ import annotations

import pytest

from vop.config import kinds
from vop.testing import BenchmarkContract


@pytest.mark.parametrize("name", kinds("benchmark"))
class TestEveryBenchmark(BenchmarkContract):
    """Each file of `vop/benchmarks/`, and each that is installed beside it."""
