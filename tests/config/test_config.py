"""Recipes and overrides: what wins, what is refused, and that every message names the dotted key and what is valid there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from vop.config import PACKAGES, ConfigError, Experiment, kinds, load_experiment, validated, with_value
from vop.config.kinds import own_kinds

RECIPES = sorted((Path(__file__).parents[2] / "vop" / "recipes").glob("*.yaml"))
OF_EVERY_KIND = [f"{section}.name={name}" for section in PACKAGES for name in kinds(section)]


def refused(recipe: str | Path | dict[str, object], *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_experiment(recipe, overrides)
    return str(error.value)


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


# --- recipes and overrides ----------------------------------------------------------------------------------------


def test_an_override_wins_over_the_recipe_which_wins_over_the_default(tmp_path: Path) -> None:
    recipe = write(tmp_path, "name: mine\ntraining: {epochs: 7, batch_size: 16, learning_rate: 3e-4}\n")
    training = load_experiment(recipe, ["training.epochs=2", "training.epochs=3"]).training
    assert (training.epochs, training.batch_size, training.weight_decay) == (3, 16, 0.2)
    assert training.learning_rate == 3e-4, "PyYAML reads 3e-4 as a string"
    assert load_experiment(recipe).training.epochs == 7
    assert load_experiment(str(recipe)).name == "mine"
    assert load_experiment().training.epochs == 5
    for nothing in ("", "# nothing but a comment\n", "null\n"):
        assert "says nothing" in refused(write(tmp_path, nothing)), "it would mean the defaults in silence"


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("training.learning_rate=3e-4", 3e-4),
        ("training.learning_rate=1", 1.0),
        ("training.learning_rate=null", None),
        ("training.epochs=0", 0),
        ("resources.use_gpu=false", False),
        ("resources.num_workers=2", 2),
        ("resources.num_workers=2-8", "2-8"),
        ("resources.num_workers=4-4", 4),
        ("video_encoder.split_layer=8", 8),
        ("tracking.uri=sqlite:///a=b.db", "sqlite:///a=b.db"),
        ("benchmark.videos=", None),
    ],
)
def test_an_override_is_typed(override: str, value: object) -> None:
    key = override.partition("=")[0]
    if override == "benchmark.videos=":
        assert "benchmark.videos" in refused({}, override)
        return
    found = load_experiment({}, [override]).flat()[key]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed: 1\nname: a\nseed: 2\n", "'seed' is there twice"),
        ("training: {epochs: 1, epochs: 2}", "'epochs' is there twice"),
        ("a: &x [1]\nb: *x\n", "anchors and aliases"),
        ("".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" if k else "a0: &a0 [1]\n" for k in range(30)), "anchors"),
        ("a: " + "[" * 20_000, "nested too deep|while parsing"),
        ("{" * 20_000, "nested too deep|while parsing"),
        ("!!python/object/apply:os.system [id]", "tags such as"),
        ("seed: " + "1" * 5000, "4300 digits"),
        ("training: {learning_rate: .inf}", "training.learning_rate: .*finite"),
        ("training: {learning_rate: .nan}", "training.learning_rate: .*finite"),
        ("training: {batch_size: true}", "training.batch_size: .*valid integer"),
        ("seed: 010", "seed: .*valid integer"),
        ("seed: 0x10", "seed: .*valid integer"),
        ("seed: '3'", "seed: .*valid integer"),
        ("seed: 1_000", "seed: .*valid integer"),
        ("resources: {use_gpu: yes}", "resources.use_gpu: .*valid boolean"),
        ("training: {epochs: 2.5}", "training.epochs: .*valid integer"),
        ("text_prompt: {length: 1000000000}", "text_prompt.length: .*less than or equal"),
        ("name: ../x", "'../x' cannot name"),
        ("name: a/b", "'a/b' cannot name"),
        ("name: bob's", "cannot name"),
        ("name: ''", "'' cannot name"),
        ("name: 7", "name: .*valid string"),
        ("7: 8", "7: Keys should be strings"),
        ("[a]: 8", "a key must be a word"),
        ("{<<: {seed: 1}, seed: 2}", "<<: unknown key"),
        ("seed: !!timestamp x", "tags such as .*timestamp are not read"),
        ("seed: !!bool maybe", "tags such as"),
        ("name: !!int ''", "tags such as"),
        ("!!map [seed]", "tags such as"),
        ("#" * 2**16 + "\n", "65,537 bytes, a recipe has at most 65,536"),
    ],
)
def test_a_recipe_is_read_as_it_looks(tmp_path: Path, text: str, words: str) -> None:
    assert re.search(words, refused(write(tmp_path, text)))


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.text(max_size=100),
        st.lists(st.sampled_from([*"{}[]:,-&*!|>'\"\n #?%@", "seed", "name", "training", "epochs", "1", "true", "x"])).map(
            "".join
        ),
    )
)
def test_any_text_is_a_recipe_or_an_error_of_ours(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        with suppress(ConfigError):
            load_experiment(path)
    with suppress(ConfigError):
        load_experiment({}, [text])
    with suppress(ConfigError):
        load_experiment({}, [f"training.epochs={text}"])


NO_WORKERS = ["8-2", "0-3", "2-", "-2", "a-b", "1-2-3", "0", "2.5", "true", "null", "[2]", "2 - 8", "x" * 999]


@pytest.mark.parametrize("workers", NO_WORKERS)
def test_a_number_of_workers_that_is_none_is_one_sentence(workers: str) -> None:
    words = r"resources\.num_workers: .{1,100} is neither a number from 1 on, such as 2, nor a range of two such as 2-8"
    assert re.fullmatch(words, refused({}, f"resources.num_workers={workers}"))


def test_a_range_of_workers_has_two_ends() -> None:
    ends = [load_experiment({}, [f"resources.num_workers={words}"]).resources for words in ("2-8", "3")]
    assert [(one.fewest, one.most) for one in ends] == [(2, 8), (3, 3)]


def test_with_value_leaves_the_tree_it_was_given() -> None:
    tree = {"training": {"epochs": 1}}
    assert with_value(tree, "training.batch_size", 4) == {"training": {"epochs": 1, "batch_size": 4}}
    assert tree == {"training": {"epochs": 1}}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_valid(recipe: Path) -> None:
    assert load_experiment(recipe) != load_experiment(), "a recipe that says nothing"


def test_there_are_recipes() -> None:
    assert RECIPES


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["trainig.epochs=3"], ["trainig: unknown key", "at the top level", "training", "video_prompt"]),
        (["training.epoch=3"], ["training.epoch: unknown key", "at training: epochs, batch_size"]),
        (["backbone.pre=x", "frames.size=4"], ["backbone.pre: unknown", "frames.size: unknown", "count, sampling"]),
        (
            ["video_prompt.name=context", "video_prompt.modul=lstm"],
            ["video_prompt.modul: unknown key", "at video_prompt:", "specific_length, module, role"],
        ),
        (["benchmark.name=folder", "benchmark.sed=1"], ["benchmark.sed: unknown key", "split_seed", "test_fraction"]),
        (["video_prompt.specific_length=2"], ["video_prompt.specific_length: unknown key", "length, depth, name"]),
        (["training.warmup=1"], ["training.warmup:", "less than 1", "given: 1"]),
        (["frames.count=0"], ["frames.count:", "greater than or equal to 1", "given: 0"]),
        (["training.epochs=many"], ["training.epochs:", "integer", 'given: "many"']),
        (["training.learning_rate=0"], ["training.learning_rate:", "greater than 0"]),
        (["training.precision=fp16"], ["training.precision:", "'fp32', 'tf32' or 'bf16'", "fp16"]),
        (["text_prompt.depth=0-3"], ["text_prompt.depth:", "0-3"]),
        (["training=5"], ["training:", "given: 5"]),
        (["video_prompt=shared"], ["video_prompt:", "shared"]),
        (["training.epochs"], ["'training.epochs'", "key=value", "training.epochs=3"]),
        (['data.cache="a\\0b"'], ["data.cache:", "a NUL character"]),
        (["training.epochs=[1"], ["training.epochs=[1", "not a YAML value"]),
    ],
)
def test_the_message_names_key_and_what_is_valid(overrides: list[str], words: list[str]) -> None:
    message = refused({}, *overrides)
    for word in words:
        assert word in message


def test_a_message_is_no_longer_than_it_is_read() -> None:
    assert len(refused({"name": "x" * 10**6})) < 400
    assert len(refused({"seed": "x" * 10**6})) < 400
    assert refused({f"k{number}": 1 for number in range(10**4)}).count("unknown key") == 20


@pytest.mark.parametrize("section", PACKAGES)
def test_an_unknown_name_lists_the_files_present(section: str) -> None:
    message = refused({}, f"{section}.name=nonsense")
    assert f"{section}.name: there is no 'nonsense'; valid names: {', '.join(kinds(section))}" in message
    files = {path.stem for path in (Path(__file__).parents[2] / PACKAGES[section].replace(".", "/")).glob("[!_]*.py")}
    assert {name.replace("-", "_") for name in own_kinds(section)} == files


def test_switching_a_kind_names_the_fields_of_the_old_one(tmp_path: Path) -> None:
    recipe = write(tmp_path, "video_prompt: {name: position, specific_length: 2, length: 6}\n")
    message = refused(recipe, "video_prompt.name=shared")
    assert message == "video_prompt.specific_length: unknown key; valid keys at video_prompt: length, depth, name"
    prompt = load_experiment(recipe, ["video_prompt.name=context", "video_prompt.module=lstm"]).flat()
    assert (prompt["video_prompt.specific_length"], prompt["video_prompt.module"]) == (2, "lstm")


def test_a_recipe_that_is_not_one(tmp_path: Path) -> None:
    beside = write(tmp_path, "- a\n- list\n")
    assert "recipe.yaml" in refused(beside) and "found list" in refused(beside)
    missing = tmp_path / "recpie.yaml"
    assert f"recipe {missing}: there is no such file" in refused(missing) and str(beside) in refused(missing)
    assert "is not valid YAML" in refused(write(tmp_path, "training: {epochs: 1\n"))
    assert "epochz: unknown" in refused(write(tmp_path, "epochz: 1\n"))


# --- the object ---------------------------------------------------------------------------------------------------


def test_an_experiment_is_frozen() -> None:
    experiment = load_experiment({}, ["video_prompt.name=position"])
    sections: list[tuple[BaseModel, str]] = [
        (experiment, "seed"),
        (experiment.training, "epochs"),
        (experiment.video_prompt, "specific_length"),
    ]
    for section, field in sections:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, field, 2)


@pytest.mark.parametrize("override", OF_EVERY_KIND)
def test_tree_and_flat_rebuild_the_experiment(override: str) -> None:
    experiment = load_experiment({"training": {"learning_rate": 3e-4}}, [override, "seed=5"])
    assert validated(json.loads(json.dumps(experiment.tree()))) == experiment
    flat = experiment.flat()
    assert not any(isinstance(value, dict) for value in flat.values())
    assert load_experiment({}, [f"{key}={json.dumps(value)}" for key, value in flat.items()]) == experiment


def test_flat_holds_every_field_by_its_dotted_key() -> None:
    flat = load_experiment({}, ["video_prompt.name=context", "tuning.name=prompts"]).flat()
    assert flat["training.learning_rate"] is None and flat["seed"] == 0
    assert flat["video_prompt.role"] == "prompts", "a kind's own field"
    assert {key.partition(".")[0] for key in flat} == set(Experiment.model_fields)


@pytest.mark.parametrize("name", sorted(set(kinds("tuning")) - {"prompts"}))
def test_other_protocols_have_no_prompts(name: str) -> None:
    tuned = load_experiment({}, [f"tuning.name={name}"])
    assert tuned.text_prompt.length == tuned.video_prompt.length == 0
    assert validated(tuned.tree()) == tuned
    for override in ("text_prompt.length=4", "video_prompt.length=4", "video_encoder.split_layer=2"):
        message = refused({}, f"tuning.name={name}", override)
        assert f"tuning.name={name} has no" in message and override.partition(".")[0] in message


def test_importing_the_config_is_light() -> None:
    code = "import sys, vop.config; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "pydantic" in loaded
    assert not {"torch", "open_clip", "ray", "mlflow", "av"} & set(loaded)


def test_a_number_sign_in_a_path_begins_no_comment() -> None:
    for path in ("/videos/a b #c", "#1", "/x/#2 and #3"):
        assert load_experiment("", [f"tracking.output={path}"]).tracking.output == path
    assert load_experiment("", ['tracking.output="/a #b"']).tracking.output == "/a #b"
