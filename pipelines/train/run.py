"""run_experiment, the one way to train: the command calls it once, a sweep calls it in each trial."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.tune
import torch

from pipelines.cluster.connect import connected
from pipelines.cluster.probe import check_shared
from pipelines.cluster.stop import stoppable
from pipelines.data.prepare import Prepared, mend, prepare
from pipelines.data.store import read_manifest
from pipelines.locations import checkpoint_folder
from pipelines.output import Output
from pipelines.score.evaluate import evaluate, write_queries
from pipelines.tracking import LoggedRun, Run, tracked_run
from pipelines.tracking.experiment import TRAINABLE
from pipelines.train.checkpoint import trained
from pipelines.train.launch import train_on_workers
from pipelines.train.on_disk import remove
from pipelines.train.plan import check, shared_places
from pipelines.train.resources import check_resources
from pipelines.train.training import TrainingError
from pipelines.train.worker import Job, Worker, train
from vop.config import ConfigError, Experiment
from vop.errors import VopError
from vop.messages import one_line
from vop.model.adapter import CARD, TENSORS, Adapter, adapter_of, save_adapter
from vop.model.architecture import image_size
from vop.model.retrieval import build_model, shape_of_model

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """A finished experiment: its test metrics (none without a test split), its validation metrics, its adapter's folder, its
    MLflow run, its data."""

    experiment: Experiment
    metrics: dict[str, float]
    validation: dict[str, float]
    adapter: Path
    run: Run
    prepared: Prepared

    @property
    def kept(self) -> str:
        """Where the adapter is, as every machine calls it."""
        return Output.of(self.experiment.tracking).named(self.adapter)


def run_experiment(
    experiment: Experiment,
    tags: Mapping[str, Any] | None = None,
    trial: Prepared | None = None,
    resumed: LoggedRun | None = None,
) -> Result:
    """Prepare the data, train, score the test split once with the best checkpoint on validation, track all of it.

    `trial`: in a trial of a sweep, the data that the sweep has prepared and checked. Each epoch's metrics are reported to Ray
    Tune then, and one worker trains and scores in the trial's own process: new ones would spend longer on imports than a small
    training takes. `resumed`: a run of this experiment that died, to go on in from its last checkpoint.

    Raises what `check` raises and ResourceError for a cluster that is too small, before there is a run; then what `prepare` and
    the workers raise, with the adapter's folder where one is kept. The MLflow run says FAILED then (KILLED for Ctrl-C and
    SIGTERM, which raise Stopped here).
    """
    with stoppable():
        trainable, tasks = check(experiment) if trial is None else (0, None)
        with connected():
            if trainable and experiment.training.epochs:
                check_resources(experiment)
            if trial is None:
                check_shared(shared_places(experiment))
            about = {"selected_on": experiment.training.select, **(tags or {})}
            with tracked_run(experiment, about, resumed.id if resumed else "") as run:
                output, checkpoints = Output.of(experiment.tracking), checkpoint_folder(experiment.tracking, run.id)
                try:
                    prepared = trial or prepare(experiment, image_size(experiment.backbone), tasks)
                    result = _run(experiment, run, prepared, trial is not None, set(resumed.metrics) if resumed else set())
                finally:
                    remove(output, checkpoints, kept=True)
            remove(output, checkpoints)
            if trial is None:
                mend(experiment, image_size(experiment.backbone))
    return result


def _run(experiment: Experiment, run: Run, prepared: Prepared, trial: bool, logged: set[str]) -> Result:
    """What is trained is kept before anything is scored with it. logged: metrics that are in MLflow already."""
    in_process = trial and experiment.resources.fewest == 1
    adapter, output = _train(Job(experiment, prepared.folder, run), trial), Output.of(experiment.tracking)
    adapter.notes["run"] = run.id
    folder = save_adapter(adapter, output.folder / f"{experiment.name}-{run.id[:8]}")
    with _kept(str(folder), run):
        output.push(folder)
    with _kept(output.named(folder), run):
        for name in (TENSORS, CARD):
            run.artifact(folder / name, "adapter")
        validation = _validation(adapter, prepared.folder, in_process)
        metrics = _score(adapter, prepared.folder, folder, run, in_process)
        output.push(folder)
        best = {f"best/{name}": value for name, value in validation.items()}
        final = {**metrics, **best, "videos_failed": len(prepared.failed)}
        run.log({name: value for name, value in final.items() if name not in logged})
    return Result(experiment, metrics, validation, folder, run, prepared)


@contextmanager
def _kept(place: str, run: Run) -> Iterator[None]:
    """An error that comes after the training says where the adapter is, and how to go on."""
    kept = f"what was trained is kept in {place}; to go on from there: vop train --resume {run.id[:8]}"
    try:
        yield
    except VopError as error:
        error.args = (*error.args, kept)
        raise
    except Exception as error:
        raise TrainingError(f"after the training: {type(error).__name__}: {one_line(error)[:500]}", kept) from error


def _score(adapter: Adapter, store: str, folder: Path, run: Run, in_process: bool) -> dict[str, float]:
    """`test/...` of the adapter, with the ranked results, here and in MLflow; nothing where there is no test split."""
    if not read_manifest(store, "test"):
        name = adapter.experiment.benchmark.name
        logger.warning("benchmark %s has no readable test videos: the run ends with its validation metrics", name)
        return {}
    evaluation = evaluate(adapter, store, in_process=in_process)
    adapter.notes["test"] = evaluation.metrics
    save_adapter(adapter, folder)
    run.artifact(folder / CARD, "adapter")
    run.artifact(write_queries(folder / "queries.csv", evaluation.queries))
    return {f"test/{name}": value for name, value in evaluation.metrics.items()}


def _train(job: Job, trial: bool) -> Adapter:
    """The best adapter on validation; for zero epochs, or a protocol that trains nothing, the untrained one."""
    experiment = job.experiment
    trainable = shape_of_model(experiment).count_trainable()
    job.run.params({TRAINABLE: str(trainable)})
    if not trainable or not experiment.training.epochs:
        return adapter_of(build_model(experiment), experiment)
    for split in ("train", experiment.training.select):
        if not read_manifest(job.store, split):
            raise ConfigError(f"benchmark {experiment.benchmark.name} has no readable {split} videos; training needs some")
    if done := trained(job.checkpoints, experiment):
        return done
    use_gpu = check_resources(experiment)
    if trial and experiment.resources.fewest == 1:
        return _train_in_process(job, use_gpu)
    if not trial:
        words = "training %s: epochs: %d, trainable parameters: %d, workers: %s"
        logger.info(words, experiment.name, experiment.training.epochs, trainable, experiment.resources.num_workers)
    return train_on_workers(job, use_gpu, trial)


def _train_in_process(job: Job, use_gpu: bool) -> Adapter:
    """Train in this process, which is a trial of a sweep."""
    return train(job, Worker(0, 1, torch.device("cuda" if use_gpu else "cpu"), ray.tune.report, trial=True))


def _validation(adapter: Adapter, store: str, in_process: bool) -> dict[str, float]:
    """`val/...` of the adapter: as it was selected, or scored now if nothing was trained."""
    selected = {k: float(v) for k, v in adapter.notes.get("validation", {}).items() if k.startswith("val/")}
    if selected or not read_manifest(store, adapter.experiment.training.select):
        return selected
    scored = evaluate(adapter, store, adapter.experiment.training.select, in_process).metrics
    return {f"val/{name}": value for name, value in scored.items()}
