"""Tune spaces: every file of tune_spaces/ gives valid experiments, and a bad one is one clear sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.sweep.check import FOLDER
from pipelines.sweep.space import (
    choices,
    draw_of,
    experiment_of,
    label,
    load_space,
    point_of,
    points_of,
    with_rates,
)
from vop.config import ConfigError, raw_tree
from vop.paper.methods import ANYWHERE

TOY = {"backbone": {"name": "ViT-toy", "pretrained": "ViT-toy.safetensors"}, "frames": {"count": 8}}
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


def written(folder: Path, text: str) -> str:
    (folder / "space.py").write_text(f"from ray import tune\n{text}\n")
    return str(folder / "space.py")


@pytest.mark.parametrize("name", NAMES)
def test_every_point_of_a_space_is_a_different_valid_experiment(name: str) -> None:
    space = load_space(name)
    points = points_of(space, "grid", 1, 0)
    experiments = [experiment_of(TOY, point, 3) for point in points]
    assert len({experiment.model_dump_json() for experiment in experiments}) == len(points) >= 4
    assert {experiment.seed for experiment in experiments} == {3}
    assert len({label(point) for point in points}) == len(points)
    for point in space.first:
        experiment_of(TOY, point, 0)


def test_the_spaces_cover_what_the_paper_varies() -> None:
    assert {*NAMES} >= {
        *("length_depth_variant", "prompt_length", "prompt_depth", "video_specific_length", "split_layer"),
        *("context_module", "cooperation", "learning_rate", "all_methods"),
    }
    assert [point["method"] for point in points_of(load_space("all_methods"), "grid", 1, 0)] == ANYWHERE
    rates = {point["training.learning_rate"] for point in points_of(load_space("learning_rate"), "grid", 1, 0)}
    assert (min(rates), max(rates)) == (1e-6, 1e-2)


def test_keys_joined_by_a_comma_move_together() -> None:
    point = {"text_prompt.length, video_prompt.length": 3}
    experiment = experiment_of(TOY, point, 0)
    assert (experiment.text_prompt.length, experiment.video_prompt.length) == (3, 3)
    assert label(point) == "length=3"


def test_a_method_brings_its_overrides_and_later_keys_win() -> None:
    experiment = experiment_of(TOY, {"method": "VoP^F+P", "video_encoder.split_layer": 4}, 0)
    assert (experiment.video_prompt.name, experiment.video_encoder.split_layer) == ("position", 4)


def test_a_method_without_prompts_leaves_the_recipes_prompts_out() -> None:
    prompted = {**TOY, "text_prompt": {"length": 2}, "video_encoder": {"split_layer": 8}}
    assert experiment_of(prompted, {"method": "Bias"}, 0) == experiment_of(TOY, {"method": "Bias"}, 0)


def test_two_spaces_are_the_union_of_their_points() -> None:
    both = points_of(load_space("cooperation,all_methods"), "grid", 1, 0)
    assert len(both) == len(ANYWHERE), "the four of cooperation are methods, and each point is there once"


def test_a_draw_of_a_space_of_parts_is_a_point_of_one(tmp_path: Path) -> None:
    text = "SPACE = [{'training.learning_rate': tune.loguniform(1e-6, 1e-2), 'video_prompt.length': tune.grid_search([1, 2])},"
    text += " {'text_prompt.length': tune.grid_search([1, 2, 3])}]\nMETRIC, MODE = 'val/t2v/R1', 'max'"
    space = load_space(written(tmp_path, text))
    points = points_of(space, "random", 40, 0)
    kinds = [{"training.learning_rate", "video_prompt.length"}, {"text_prompt.length"}]
    assert {len(point) for point in points} == {1, 2} and all(set(point) in kinds for point in points)
    assert points == points_of(space, "random", 40, 0)
    for point in points:
        draw = draw_of(space, point)
        assert draw.keys() == choices(space).keys(), "a sampler wants all of them"
        assert point_of(space, draw) == point


def test_samplers_depend_on_the_seed_alone(tmp_path: Path) -> None:
    name = written(
        tmp_path,
        "SPACE = {'training.learning_rate': tune.loguniform(1e-6, 1e-2), 'video_prompt.length': tune.grid_search([1, 2])}\n"
        "METRIC, MODE = 'val/t2v/R1', 'max'",
    )
    space = load_space(name)
    assert points_of(space, "random", 5, 0) == points_of(space, "random", 5, 0) != points_of(space, "random", 5, 1)
    assert len(points_of(space, "random", 5, 0)) == 5
    grid = points_of(space, "grid", 3, 0)
    assert [point["video_prompt.length"] for point in grid].count(1) == 3 and len(grid) == 6
    assert all(1e-6 <= point["training.learning_rate"] <= 1e-2 for point in grid)
    assert len(points_of(load_space("prompt_length"), "random", 3, 0)) == 3


def test_rates_of_another_sweep_are_taken_by_method() -> None:
    points = [{"method": "VoP"}, {"method": "zero-shot"}]
    assert with_rates(points, {"VoP": 1e-3}) == [{"method": "VoP", "training.learning_rate": 1e-3}, {"method": "zero-shot"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SPACE = {'a': tune.grid_search([1])}\nMETRIC, MODE = 'test/t2v/R1', 'max'", "'test/t2v/R1' is not under val/"),
        ("SPACE = {'a': tune.grid_search([1])}\nMETRIC, MODE = 'val/t2v/R01', 'max'", "'val/t2v/R01' is not logged; valid: "),
        ("SPACE = {'a': tune.grid_search([1])}\nMETRIC, MODE = 'val/t2v/R1', 'best'", "MODE must be 'max' or 'min'"),
        ("METRIC, MODE = 'val/t2v/R1', 'max'", "SPACE must be a dictionary"),
        ("SPACE = {'resources.num_workers': tune.grid_search([1])}\nMETRIC, MODE = 'val/t2v/R1', 'max'", "cannot be searched"),
        ("SPACE = {'seed': tune.grid_search([1])}\nMETRIC, MODE = 'val/t2v/R1', 'max'", "seeds are --seeds"),
        ("SPACE = {'benchmark.name': tune.grid_search(['toy'])}\nMETRIC, MODE = 'val/t2v/R1', 'max'", "benchmarks --recipes"),
        ("SPACE = grid", "NameError"),
    ],
)
def test_a_file_that_is_no_space_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_space(written(tmp_path, text))


def test_a_mistyped_name_lists_the_spaces() -> None:
    with pytest.raises(ConfigError, match=r"no 'prompt_lenght'; valid: .*prompt_length"):
        load_space("prompt_lenght")


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"video_prompt.lenght": 3}, "video_prompt.lenght: unknown key; valid keys at video_prompt: length"),
        ({"method": "VoP^X"}, r"method: there is no 'VoP\^X'; valid names: zero-shot"),
        ({"training.select": "test"}, "training.select=test: a sweep never looks at test"),
        ({"training.learning_rate": "fast"}, "training.learning_rate=fast: training.learning_rate"),
    ],
)
def test_a_bad_key_or_value_in_a_space_is_named(point: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        experiment_of(raw_tree(TOY), point, 0)
