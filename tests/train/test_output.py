"""`tracking.output` at an address: checkpoints and adapters are kept there, and any machine goes on from them."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.cluster.stop import Stopped
from pipelines.data.check import check_output
from pipelines.locations import adapter_folder, artifact_folder, checkpoint_folder, output_folder, tracking_uri
from pipelines.output import Output
from pipelines.train.on_disk import ERRORS, last, remove
from pipelines.train.resume import resume
from pipelines.train.run import Result, run_experiment
from tests.support.runs import the_run
from tests.train.test_resume import assert_same, experiment_of, once_checkpointed, undisturbed
from vop.config import ConfigError, TrackingConfig, load_experiment
from vop.errors import AdapterError
from vop.model.adapter import load_adapter
from vop.places import PlaceError

__all__ = ["undisturbed"]  # a fixture


@pytest.fixture
def tracking(tmp_path: Path) -> Iterator[TrackingConfig]:
    """An output at an address, and its copy, which is another machine's after it was removed."""
    config = TrackingConfig(output=f"file://{tmp_path}/runs", uri=f"sqlite:///{tmp_path}/mlflow.db")
    yield config
    shutil.rmtree(output_folder(config), ignore_errors=True)


def test_a_copy_is_what_the_address_holds(tracking: TrackingConfig, tmp_path: Path) -> None:
    output, there = Output.of(tracking), tmp_path / "runs"
    made = output.folder / "a" / "b"
    made.mkdir(parents=True)
    for name in ("one", "two"):
        (made / name).write_text(name)
    output.push(output.folder / "a")
    assert sorted(path.name for path in (there / "a" / "b").iterdir()) == ["one", "two"]
    (there / "a" / "b" / "one").unlink()
    (there / "a" / "three").write_text("3")
    (made / "four").mkdir()
    output.pull(output.folder / "a")
    found = {str(path.relative_to(output.folder)) for path in output.folder.rglob("*")}
    assert found == {"a", "a/b", "a/b/two", "a/three"}
    (there / "a" / "three").write_text("4")  # as long, and another
    output.pull(output.folder / "a")
    assert (output.folder / "a" / "three").read_text() == "4"
    assert output.names(output.folder / "a") == {"b", "three"}
    output.remove(output.folder / "a")
    assert not list(there.iterdir()) and not (output.folder / "a").exists()


def test_what_an_address_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match=r"tracking.output: file:///runs is no folder.* tracking.uri=http"):
        tracking_uri(TrackingConfig(output="file:///runs"))
    with pytest.raises(ConfigError, match=r"tracking.output: nowhere://runs: .*; valid: a path, or a URI that pyarrow knows"):
        Output.of(TrackingConfig(output="nowhere://runs"))
    (tmp_path / "file").touch()
    with pytest.raises(PlaceError, match=f"file://{tmp_path}/file"):
        check_output(TrackingConfig(output=f"file://{tmp_path}/file"))
    with pytest.raises(AdapterError, match=f"file://{tmp_path}/none is not an adapter: there is no adapter.json"):
        adapter_folder(f"file://{tmp_path}/none")


def test_what_the_copy_is_not_for(tracking: TrackingConfig, tmp_path: Path) -> None:
    """Files of runs stay beside their database; an error's full text, and what there is to go on from, are not removed."""
    assert artifact_folder(tracking) == tmp_path / "artifacts"
    output, folder = Output.of(tracking), checkpoint_folder(tracking, "0" * 32)
    folder.mkdir(parents=True)
    (folder / ERRORS).write_text("all of it")
    remove(output, folder, kept=True)
    assert (folder / ERRORS).is_file()
    shutil.rmtree(folder)
    (tmp_path / "runs" / "checkpoints" / folder.name / "epoch-000001").mkdir(parents=True)
    (tmp_path / "runs" / "checkpoints" / folder.name / "epoch-000001" / "file").touch()
    remove(output, folder, kept=True)
    assert output.names(folder) == {"epoch-000001"}
    remove(output, folder)
    assert not output.names(folder) and not (tmp_path / "runs" / "checkpoints" / folder.name).exists()


def test_a_check_leaves_nothing(tracking: TrackingConfig, tmp_path: Path) -> None:
    assert check_output(tracking) is None
    assert not list((tmp_path / "runs").iterdir()) and not list(output_folder(tracking).iterdir())


def test_another_machine_goes_on(undisturbed: Result, videos: Path, tracking: TrackingConfig, tmp_path: Path) -> None:
    experiment = experiment_of(videos, tmp_path).model_copy(update={"tracking": tracking})
    watched = experiment.model_copy(update={"tracking": TrackingConfig(output=str(tmp_path / "runs"))})
    with once_checkpointed(watched, lambda: os.kill(os.getpid(), signal.SIGTERM)), pytest.raises(Stopped):
        run_experiment(experiment)
    run = the_run(experiment)
    shutil.rmtree(output_folder(tracking))  # as on a machine that has seen nothing of it
    assert last(tmp_path / "runs" / "checkpoints" / run.id) is not None
    result = resume(run.id[:8], tracking)
    assert_same(experiment, result, undisturbed)
    assert result.kept == f"file://{tmp_path}/runs/test-{run.id[:8]}"
    assert not (tmp_path / "runs" / "checkpoints" / run.id).exists() and not checkpoint_folder(tracking, run.id).exists()
    found = adapter_folder(result.kept)
    assert found is not None and load_adapter(found).fingerprint == load_adapter(result.adapter).fingerprint
    assert load_experiment(experiment.tree()) == experiment
