"""CPU time of processes that others started, and that may have ended."""

from __future__ import annotations

import subprocess
import sys
import time

from pipelines.throughput import TreeTimes

BUSY = "import time\nwhile time.process_time() < 1: pass"


def test_what_children_spent_is_counted_after_their_end_and_what_was_before_is_not() -> None:
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    spent = TreeTimes(every_s=0.05)
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BUSY!r}])"
    subprocess.run([sys.executable, "-c", child], check=True)
    found = spent.stop()
    assert found.pop("root") < time.process_time() - 0.25
    assert 0.7 < sum(found.values()) < 2
