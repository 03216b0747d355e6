"""run_experiment, the one way to train: the command calls it once, a sweep calls it in each trial.

`python -m pipelines.train RECIPE [key=value ...]` is `vop train`, for `ray job submit`.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import ray.tune
import torch
from ray.tune.integration.ray_train import TuneReportCallback

from pipelines.cluster import ResourceError, cluster_has, connected, labelled, uses_gpu
from pipelines.evaluate import Evaluation, evaluate, write_queries
from pipelines.prepare import Prepared, prepare
from pipelines.store import read_manifest
from pipelines.tracking import Run, check_server, output_folder, tracked_run
from pipelines.train_loop import Worker, train, train_loop
from vop.adapter import Adapter, adapter_of, load_adapter, save_adapter
from vop.backbone import image_size
from vop.config import ConfigError, Experiment
from vop.model import build_model


@dataclass(frozen=True)
class Result:
    """A finished experiment: its test metrics, its validation metrics, its adapter's folder, its MLflow run, its data."""

    experiment: Experiment
    metrics: dict[str, float]
    validation: dict[str, float]
    adapter: Path
    run: Run
    prepared: Prepared


def run_experiment(experiment: Experiment, tags: Mapping[str, Any] | None = None, trial: Prepared | None = None) -> Result:
    """Prepare the data, train, score the test split once with the best checkpoint on validation, track all of it.

    `trial`: in a trial of a sweep, the data that the sweep has prepared. Each epoch's metrics are reported to Ray Tune then,
    and one worker trains in the trial's own process: new ones would spend longer on imports than a small training takes.

    Raises TrackingError for an MLflow server that does not answer, what `prepare` raises, ConfigError for an experiment that
    does not fit its data or backbone, ResourceError for a cluster that is too small, and what a worker raised. The MLflow run
    then says FAILED (KILLED for Ctrl-C).
    """
    if trial is None:
        check_server(experiment.tracking)
    with connected(), tracked_run(experiment, {"selected_on": experiment.training.select, **(tags or {})}) as run:
        prepared = trial or prepare(experiment, image_size(experiment.backbone))
        here = trial is not None and experiment.resources.num_workers == 1
        adapter = _train(experiment, prepared, run, trial is not None)
        validation = _validation(adapter, prepared.folder, here)
        evaluation = evaluate(adapter, prepared.folder, here=here)
        metrics = {f"test/{name}": value for name, value in evaluation.metrics.items()}
        best = {f"best/{name}": value for name, value in validation.items()}
        run.log({**metrics, **best, "videos_failed": len(prepared.failed)})
        folder = _keep(adapter, evaluation, output_folder(experiment.tracking) / f"{experiment.name}-{run.id[:8]}", run)
    return Result(experiment, metrics, validation, folder, run, prepared)


def _train(experiment: Experiment, prepared: Prepared, run: Run, in_trial: bool = False) -> Adapter:
    """The best adapter on validation; for zero epochs, or a protocol that trains nothing, the untrained one."""
    model = build_model(experiment)
    trainable = sum(parameter.numel() for parameter in model.trainable().values())
    run.log({"trainable_parameters": trainable})
    if not trainable or not experiment.training.epochs:
        return adapter_of(model, experiment)
    for split in ("train", experiment.training.select):
        if not read_manifest(prepared.folder, split):
            raise ConfigError(f"benchmark {experiment.benchmark.name} has no readable {split} videos; training needs some")
    use_gpu = check_resources(experiment)
    resources = experiment.resources
    config = {
        "experiment": experiment.tree(),
        "store": prepared.folder,
        "cpus": resources.cpus_per_worker,
        "run_uri": run.uri,
        "run_id": run.id,
    }
    if in_trial and resources.num_workers == 1:
        return _train_here(config, use_gpu)
    trainer = ray.train.torch.TorchTrainer(
        train_loop,
        train_loop_config=config,
        scaling_config=ray.train.ScalingConfig(
            num_workers=resources.num_workers,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": resources.cpus_per_worker, **({"GPU": 1} if use_gpu else {})},
            **labelled("train"),
        ),
        run_config=ray.train.RunConfig(
            name=run.id,  # unique: Ray Train would silently resume a name that it knows
            storage_path=str(output_folder(experiment.tracking) / "checkpoints"),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),
            failure_config=ray.train.FailureConfig(max_failures=resources.max_failures),
            callbacks=[TuneReportCallback()] if in_trial else [],
        ),
    )
    result = trainer.fit()
    if result.error:
        raise result.error
    assert result.checkpoint is not None
    with result.checkpoint.as_directory() as folder:
        adapter = load_adapter(Path(folder))
    shutil.rmtree(output_folder(experiment.tracking) / "checkpoints" / run.id, ignore_errors=True)
    return adapter


def _train_here(config: dict[str, Any], use_gpu: bool) -> Adapter:
    """Train in this process, which is a trial of a sweep."""

    def report(metrics: dict[str, float], checkpoint: ray.train.Checkpoint) -> None:
        ray.tune.report(metrics)

    return train(config, Worker(0, 1, torch.device("cuda" if use_gpu else "cpu"), None, report, prints=False))


def _validation(adapter: Adapter, store: str, here: bool) -> dict[str, float]:
    """`val/...` of the adapter: as it was selected, or scored now if nothing was trained."""
    selected = {k: float(v) for k, v in adapter.notes.get("validation", {}).items() if k.startswith("val/")}
    if selected or not read_manifest(store, adapter.experiment.training.select):
        return selected
    scored = evaluate(adapter, store, adapter.experiment.training.select, here).metrics
    return {f"val/{name}": value for name, value in scored.items()}


def check_resources(experiment: Experiment) -> bool:
    """Whether to use GPUs. Raises ResourceError if the workers do not fit the cluster, before they hang."""
    resources = experiment.resources
    use_gpu = uses_gpu(resources)
    # without a CPU that the workers leave free a training that streams would wait for ever
    decoding, also = (0, "") if experiment.data.store or labelled("decode") else (1, " and 1 to decode")
    needs = {"CPU": resources.num_workers * resources.cpus_per_worker + decoding}
    if use_gpu:
        needs["GPU"] = resources.num_workers
    for name, amount in needs.items():
        if cluster_has(name, "train") < amount:
            raise ResourceError(
                f"the training needs {amount:g} {name} for {resources.num_workers} workers{also}, the cluster has "
                f"{cluster_has(name, 'train'):g} for it: lower resources.num_workers or resources.cpus_per_worker"
            )
    return use_gpu


def _keep(adapter: Adapter, evaluation: Evaluation, folder: Path, run: Run) -> Path:
    """Save the adapter and the ranked results, here and in MLflow."""
    adapter.notes["test"] = evaluation.metrics
    adapter.notes["run"] = run.id
    save_adapter(adapter, folder)
    run.artifact(folder, "adapter")
    run.artifact(write_queries(folder / "queries.csv", evaluation.queries))
    return folder


if __name__ == "__main__":
    from pipelines.cli import app

    app(["train", *sys.argv[1:]])
