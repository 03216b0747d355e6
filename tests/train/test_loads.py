"""A backbone is read once a process: by a training with all its scoring; its driver and its counts read none."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.locations import checkpoint_folder
from pipelines.score.evaluate import evaluate
from pipelines.tracking import Run, tracked_run
from pipelines.train.checkpoint import state_of
from pipelines.train.on_disk import last
from pipelines.train.worker import Job, Worker, train
from tests.support.recipe import recipe
from tests.support.stores import write_store
from vop.benchmarks import folder
from vop.config import BackboneConfig, Experiment, kinds, load_experiment
from vop.model import backbone as loading
from vop.model.adapter import Adapter
from vop.model.backbone import load_backbone, shape_of_backbone, shared_backbone
from vop.model.retrieval import RetrievalModel, build_model, shape_of_model
from vop.paper.counts import count_methods

TOY = BackboneConfig(name="ViT-toy", pretrained="ViT-toy.safetensors")


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hashes of all weights that are loaded from now on."""
    seen: list[str] = []

    def spy(module: torch.nn.Module) -> str:
        seen.append(hash_weights(module))
        return seen[-1]

    hash_weights = loading.hash_weights
    monkeypatch.setattr(loading, "hash_weights", spy)
    loading._SHARED.clear()
    return seen


def trained(experiment: Experiment, store: str) -> Adapter:
    """One worker in this process, as in a trial of a sweep."""
    reported: list[float] = []

    def report(metrics: dict[str, float]) -> None:
        reported.append(metrics["train/loss"])

    with tracked_run(experiment) as run:
        made = Job(experiment, store, run)
        job = Job.of(made.tree())
        assert job == made
        threads = torch.get_num_threads()
        adapter = train(job, Worker(0, 1, torch.device("cpu"), report, trial=True))
        torch.set_num_threads(threads)
    assert len(reported) == 2
    return adapter


@pytest.mark.usefixtures("slow")
def test_a_training_and_its_scoring_read_the_weights_once(videos: Path, tmp_path: Path, hashed: list[str]) -> None:
    for tuning in ([], ["tuning.name=full", "text_prompt.length=0", "video_prompt.length=0"]):
        experiment = recipe(videos, tmp_path, "resources.num_workers=1", *tuning)
        store = write_store(experiment, folder.records(experiment.benchmark))
        adapter = trained(experiment, store)
        scores = [evaluate(adapter, store, split, in_process=True).metrics["t2v/R1"] for split in ("val", "test")]
        assert len(scores) == 2
    assert len(hashed) == 1, "two trainings and four scorings"
    assert shared_backbone(TOY).weights == load_backbone(TOY).weights == loading.hash_weights(shared_backbone(TOY).clip)


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_validation_and_evaluation_compute_in_the_trainings_precision(
    precision: str, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[tuple[str, bool, bool]] = set()

    def spy(name: str, encode: Any) -> Any:
        def look(model: RetrievalModel, *args: Any) -> Any:
            seen.add((name, torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
            return encode(model, *args)

        return look

    names = ("encode_text", "encode_activations")
    for name in names:
        monkeypatch.setattr(RetrievalModel, name, spy(name, getattr(RetrievalModel, name)))
    experiment = recipe(videos, tmp_path, "resources.num_workers=1", f"training.precision={precision}")
    store = write_store(experiment, folder.records(experiment.benchmark))
    adapter = trained(experiment, store)
    assert seen == {(name, trains, precision == "bf16") for name in names for trains in (True, False)}
    seen.clear()
    evaluate(adapter, store, "test", in_process=True)
    assert seen == {(name, False, precision == "bf16") for name in names}


@pytest.mark.usefixtures("slow")
def test_a_restarted_training_ends_like_one_that_was_not(videos: Path, tmp_path: Path) -> None:
    own = ["resources.num_workers=1", "training.epochs=3", "video_prompt.name=context", "video_prompt.specific_length=1"]
    experiment = recipe(videos, tmp_path, *own)
    store = write_store(experiment, folder.records(experiment.benchmark))

    def tensors_of(run: Run, dies_after: int = 9) -> list[dict[str, torch.Tensor]]:
        """What is trained after each epoch, and in the end the best."""

        def keep(metrics: dict[str, float]) -> None:
            checkpoint = last(folder)
            assert checkpoint and list(folder.iterdir()) == [checkpoint], "the last one alone"
            seen.append(state_of(checkpoint)["trained"])
            if len(seen) == dies_after:
                raise InterruptedError

        seen: list[dict[str, torch.Tensor]] = []
        folder = checkpoint_folder(experiment.tracking, run.id)
        with suppress(InterruptedError):
            best = train(Job(experiment, store, run), Worker(0, 1, torch.device("cpu"), keep))
            return [*seen, best.tensors]
        return seen

    with tracked_run(experiment) as undisturbed, tracked_run(experiment) as disturbed:
        whole = tensors_of(undisturbed)
        first = tensors_of(disturbed, dies_after=1)
        again = [*first, *tensors_of(disturbed)]
    assert len(again) == len(whole) == 4 and not all(torch.equal(whole[0][key], whole[1][key]) for key in whole[0])
    for one, other in zip(whole, again, strict=True):
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert disturbed.history("train/loss") == undisturbed.history("train/loss"), "each epoch once"
    assert len(disturbed.history("val/t2v/R1")) == 3


def test_a_worker_of_another_working_directory_finds_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    job = Job(load_experiment({"tracking": {"output": "runs"}}), "store", Run("sqlite:///x.db", "0" * 32))
    monkeypatch.chdir("/")
    assert job.checkpoints == Path("/runs/checkpoints") / job.run.id
    monkeypatch.chdir(tmp_path)
    tree = job.tree()
    monkeypatch.chdir("/")
    assert Job.of(tree).checkpoints == tmp_path / "runs" / "checkpoints" / job.run.id


@pytest.mark.usefixtures("slow")
def test_a_count_reads_nothing(hashed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = build_model(load_experiment({"backbone": TOY.model_dump()})).count_trainable()
    hashed.clear()
    monkeypatch.setattr("vop.model.weights.load_file", None)
    loading._SHARED.clear()
    assert shape_of_model(load_experiment({"backbone": TOY.model_dump()})).count_trainable() == expected
    assert shape_of_model(load_experiment({})).count_trainable() == 122_880  # OpenAI's weights, not on this machine
    assert count_methods().methods["VoP"].trained == 122_880
    assert hashed == []


@pytest.mark.parametrize("name", kinds("tuning"))
def test_the_shape_of_a_model_is_that_of_the_model(name: str) -> None:
    experiment = load_experiment({"backbone": TOY.model_dump()}, [f"tuning.name={name}"])
    shape, model = shape_of_model(experiment), build_model(experiment)
    assert {p.device.type for p in shape.parameters()} == {"meta"}
    assert {n: p.shape for n, p in shape.trainable().items()} == {n: p.shape for n, p in model.trainable().items()}


@pytest.mark.parametrize("name", kinds("tuning"))
def test_what_a_protocol_trains_is_the_models_own(name: str) -> None:
    """Whatever is done to its trained values, other models and the backbone that they share stay as they were."""
    experiment = load_experiment({"backbone": TOY.model_dump()}, [f"tuning.name={name}"])
    changed, before = build_model(experiment), shared_backbone(TOY)
    modules = [type(module) for module in before.clip.modules()]
    with torch.no_grad():
        for parameter in changed.trainable().values():
            parameter += 1
    assert shared_backbone(TOY) is before
    assert loading.hash_weights(before.clip) == before.weights
    assert [type(module) for module in before.clip.modules()] == modules
    assert not any(parameter.requires_grad for parameter in before.clip.parameters())
    for parameter, other in zip(build_model(experiment).trainable().values(), changed.trainable().values(), strict=True):
        assert not torch.equal(parameter, other)


def test_frozen_values_are_shared() -> None:
    one, other = (build_model(load_experiment({"backbone": TOY.model_dump()})) for _ in range(2))
    assert one.clip.visual.conv1.weight is not other.clip.visual.conv1.weight
    assert one.clip.visual.conv1.weight.data_ptr() == other.clip.visual.conv1.weight.data_ptr()


@pytest.mark.usefixtures("slow")
def test_a_file_that_changed_is_read_again(tmp_path: Path, hashed: list[str]) -> None:
    file = tmp_path / "weights.pt"
    clip = load_backbone(TOY).clip
    found = []
    for add in (0, 1):
        clip.logit_scale.data += add
        torch.save(clip.state_dict(), file)
        found.append(shared_backbone(BackboneConfig(name="ViT-toy", pretrained=str(file))).weights)
    assert found[0] != found[1]
    assert shape_of_backbone(TOY).weights == ""
