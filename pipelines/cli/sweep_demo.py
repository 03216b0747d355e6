"""`make sweep-demo`: what a team does on its cluster, on this machine. A Ray head, an MLflow server for all, two jobs.

A training and a sweep of twelve points over length, depth and variant are submitted as jobs; both are then in MLflow.
"""

from __future__ import annotations

import os
import secrets
import shlex
import subprocess
import sys
import time
from pathlib import Path

from pipelines.cluster.servers import mlflow_server, ray_head
from pipelines.cluster.ui import free_port
from pipelines.tracking.database import made

FOLDER = Path("runs/sweep-demo")
SHORT = ("training.epochs=1", "resources.num_workers=1")
TRAINING = ("train", "vop/recipes/toy.yaml", *SHORT)
SWEEP = ("tune", "vop/recipes/toy.yaml", *SHORT, "--space", "length_depth_variant", "--sampler", "random", "--samples", "12")


def main() -> int:
    """Exit code 0 if both jobs succeeded."""
    folder = FOLDER.resolve()
    name = time.strftime("demo-%Y%m%d-%H%M%S")
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "PYTHONPATH": os.getcwd()}
    made(f"sqlite:///{folder}/mlflow.db")
    with mlflow_server(folder, free_port()) as tracking, ray_head(environment) as address:
        environment |= {"MLFLOW_TRACKING_URI": tracking}
        print(f"Ray    {address}\nMLflow {tracking}", flush=True)
        for words in (TRAINING, (*SWEEP, "--name", name)):
            command = [sys.executable, "-m", "pipelines", "submit", "--address", address, "--", *words]
            print(f"\n$ vop submit --address {address} -- {shlex.join(words)}", flush=True)
            if code := subprocess.run([*command, f"tracking.output={folder}"], env=environment, check=False).returncode:
                return code
        if sys.stdin.isatty():
            input(f"\nsweep {name}: compare its runs at {tracking} (choose Model training); Enter ends the servers ")
    print(f"\nto look again: vop ui tracking.output={FOLDER}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
