"""What decode nodes feed a training that stores no frames."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from pipelines.throughput.stream import MORE


def test_a_second_decode_node_doubles_what_a_training_is_fed_until_it_is_busy(own_ray: None, tmp_path: Path) -> None:
    """Each trainer asserts the order of its rows."""
    command = [sys.executable, "-m", "pipelines", "throughput", "stream", "--rounds=0", f"--output={tmp_path / 'rows.json'}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment.pop("RAY_ADDRESS", None)
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))["rows"]
    for about in (f"at least {MORE}x", "data.ahead, 2"):
        assert [row["met"] for row in rows if row["target"] == about] == [True], rows
