"""An adapter by what a user calls it: its folder, an MLflow run, a registered model; and what it is scored on.

An adapter says what the model is. Where data, caches and servers are comes from the command line, a recipe, or the run that
trained it as the user's own MLflow has it: never from the adapter's files, which may be a stranger's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from pipelines.data.check import check_videos, is_written
from pipelines.data.tasks import Tasks
from pipelines.locations import adapter_folder, tracking_uri
from vop.config import ConfigError, Experiment, TrackingConfig, Tree, load_experiment, read_params
from vop.model.adapter import Adapter, load_adapter, load_tensors, settings_of, with_model
from vop.model.architecture import caption_tokens, image_size
from vop.model.retrieval import shape_of_model
from vop.secrets import is_masked

RUN = re.compile(r"[0-9a-f]{32}")


def find_adapter(where: str | Path, overrides: Sequence[str] = (), rest: Experiment | None = None) -> Adapter:
    """An adapter, for other videos, other resources, or weights and caches that lie elsewhere.

    where: its folder, or what MLflow has (see `download`; `tracking....` of the overrides says which MLflow). rest: all but the
    model, by default this program's defaults. Raises AdapterError or ConfigError for what is no adapter, and ConfigError for
    overrides that are not valid; whether the backbone fits is said by `model_of`.
    """
    adapter = _loaded(where, _tracking("", overrides))
    return _changed(adapter, with_model(rest or Experiment(), settings_of(adapter.experiment)).tree(), overrides)


def find_scored(where: str | Path, overrides: Sequence[str] = (), recipe: str = "") -> Adapter:
    """An adapter with what it is scored on: of a recipe, or else of the run that trained it, if MLflow has that.

    Another `benchmark.name` begins with the defaults of that benchmark. Raises as `find_adapter` does, and ConfigError where
    nothing says what to score it on.
    """
    tracking = _tracking(recipe, overrides)
    adapter = _loaded(where, tracking)
    other = any(override.startswith("benchmark.name=") for override in overrides)
    rest = load_experiment(recipe) if recipe else run_of(adapter, tracking, overrides)
    if rest is None and not other:
        raise ConfigError(
            f"{where}: nothing says what to score it on, since {tracking_uri(tracking)} does not have the run that trained it: "
            "give a recipe (vop evaluate ADAPTER RECIPE), benchmark.name=..., or the tracking.output of its run"
        )
    tree = with_model(rest or Experiment(), settings_of(adapter.experiment)).tree()
    return _changed(adapter, {**tree, **({"benchmark": {}} if other else {})}, overrides)


def run_of(adapter: Adapter, tracking: TrackingConfig, overrides: Sequence[str] = ()) -> Experiment | None:
    """The experiment of the run that trained an adapter, if the user's MLflow has it, but for where that MLflow is.

    Raises ConfigError for a secret that the run does not keep and no override gives again.
    """
    run = adapter.notes.get("run")
    if not isinstance(run, str) or not RUN.fullmatch(run):
        return None
    from pipelines.tracking import params_of_run  # MLflow, whose import takes seconds

    params: dict[str, str] = {}
    with suppress(ConfigError):  # there are no runs at all
        params = params_of_run(tracking, run)
    given = {override.partition("=")[0] for override in overrides}
    params = {key: value for key, value in params.items() if not key.startswith("tracking.") and key not in given}
    if "benchmark.name" in given:
        params = {key: value for key, value in params.items() if not key.startswith("benchmark.")}
    if masked := [key for key, value in params.items() if is_masked(value)]:
        raise ConfigError(f"{masked[0]}: run {run[:8]} keeps no secrets: give it again, {masked[0]}=...")
    return read_params(params) if params else None


def _changed(adapter: Adapter, tree: Tree, overrides: Sequence[str]) -> Adapter:
    experiment = load_experiment(tree, overrides)
    caption_tokens(experiment)
    return replace(adapter, experiment=experiment)


def _tracking(recipe: str, overrides: Sequence[str]) -> TrackingConfig:
    return load_experiment(recipe, [override for override in overrides if override.startswith("tracking.")]).tracking


def _loaded(where: str | Path, tracking: TrackingConfig) -> Adapter:
    folder = adapter_folder(where)
    if folder is not None:
        return load_adapter(folder)
    from pipelines.tracking import download  # MLflow, which a folder does not need

    with TemporaryDirectory() as scratch:
        return load_adapter(download(tracking, str(where), "adapter", Path(scratch))[1])


def check_scoring(adapter: Adapter, splits: Sequence[str] = ()) -> Tasks | None:
    """What can be known before an adapter is put to work: its tensors fit its model, and what `check_videos` looks at.

    A benchmark that is written on first use is not looked at before it is. Returns what `find_tasks` found.
    """
    load_tensors(shape_of_model(adapter.experiment), adapter.tensors)
    if not is_written(adapter.experiment):
        return None
    return check_videos(adapter.experiment, image_size(adapter.experiment.backbone), splits)[0]
