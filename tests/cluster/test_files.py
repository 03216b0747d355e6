"""The files of docs/cluster: each read by its tool where that is here, else held to what the tool documents."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from pipelines.cluster.connect import ROLE
from pipelines.cluster.words import job_command

PROJECT = Path(__file__).parents[2]
FILES = PROJECT / "docs" / "cluster"
# The fields of KubeRay's API (ray.io/v1) that the file uses, by the part that has them.
RAYJOB = {"apiVersion", "kind", "metadata", "spec"}
SPEC = {"entrypoint", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "runtimeEnvYAML", "rayClusterSpec"}
CLUSTER = {"rayVersion", "authOptions", "enableInTreeAutoscaling", "headGroupSpec", "workerGroupSpecs"}
GROUP = {"groupName", "replicas", "minReplicas", "maxReplicas", "labels", "rayStartParams", "template"}


def test_a_cluster_of_ones_own_machines_is_valid() -> None:
    config = yaml.safe_load((FILES / "local.yaml").read_text(encoding="utf-8"))
    full = prepare_config(config)
    validate_config(full)
    assert len(config["provider"]["worker_ips"]) == config["max_workers"]
    for commands in (full["head_start_ray_commands"], full["worker_start_ray_commands"]):
        assert any("ray start" in command and "RAY_AUTH_MODE=token" in command for command in commands)


def test_the_job_on_kubernetes_has_the_fields_that_kuberay_knows() -> None:
    job: dict[str, Any] = yaml.safe_load((FILES / "rayjob.yaml").read_text(encoding="utf-8"))
    assert job.keys() == RAYJOB and (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["spec"].keys() <= SPEC and yaml.safe_load(job["spec"]["runtimeEnvYAML"]).keys() == {"env_vars"}
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster.keys() <= CLUSTER and cluster["authOptions"] == {"mode": "token"}
    groups = cluster["workerGroupSpecs"]
    assert {group["labels"][ROLE] for group in groups} == {"decode", "train"}, "the labels that pipelines asks for"
    for group in (cluster["headGroupSpec"], *groups):
        assert group.keys() <= GROUP
        assert group.get("minReplicas", 0) <= group.get("replicas", 0) <= group.get("maxReplicas", 0)
        (container,) = group["template"]["spec"]["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"], "as KubeRay advises"
        volumes = {volume["name"] for volume in group["template"]["spec"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    command = shlex.split(job["spec"]["entrypoint"])
    assert command[0] == "vop" and job_command(command[1:]), "a command that can be a job"


def test_the_file_for_slurm_is_a_script_for_bash() -> None:
    text = (FILES / "slurm.sh").read_text(encoding="utf-8")
    subprocess.run(["bash", "-n", FILES / "slurm.sh"], check=True)
    options = dict(line.removeprefix("#SBATCH --").split("=", 1) for line in text.splitlines() if line.startswith("#SBATCH"))
    assert options["ntasks-per-node"] == "1", "one Ray on each machine"
    assert "RAY_AUTH_MODE=token" in text and "ray symmetric-run --address" in text


def test_the_image_is_made_of_what_is_there() -> None:
    lines = (FILES / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    assert {"pyproject.toml", "constraints.txt", "vop", "pipelines", "tune_spaces"} <= set(copied)
    assert all((PROJECT / name).exists() for name in copied)
    assert any(re.match("USER (?!root)", line) for line in lines)
    assert not any(line.startswith("ADD") for line in lines), "nothing is fetched beside packages"
