"""Commands that train, and that say what would be trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.arguments import RECIPE, Overrides, Recipe, RecipeAndOverrides, complete_recipe, recipe_and_overrides
from pipelines.cli.say import say
from pipelines.cli.tables import print_check, print_keys, print_plan, print_points, print_results, print_verdict
from pipelines.sweep.check import check_words
from vop.config import ConfigError, Tree, load_experiment, raw_tree, recipe_words, validated

if TYPE_CHECKING:
    from pipelines.train.run import Result


def demo(overrides: Overrides = None) -> None:
    """The whole shape once, on the embedded `toy` benchmark: zero-shot CLIP, then basic VoP, side by side."""
    tuned = load_experiment("toy", overrides or [])
    plain = load_experiment("toy", [*(overrides or []), "tuning.name=zero-shot", "name=toy-zero-shot"])
    say("the demo draws 520 videos and scores CLIP on them without and with prompts: about two minutes on two free cores")
    from pipelines.cluster.connect import connected
    from pipelines.train.run import run_experiment

    with connected():
        say("\n1 of 2: CLIP as it is ({}), scored on the test videos", plain.name)
        before = run_experiment(plain)
        say("\n2 of 2: the same CLIP with prompts ({}), trained (epochs: {}) and scored", tuned.name, tuned.training.epochs)
        after = run_experiment(tuned)
    say("")
    print_results({plain.name: before.metrics, tuned.name: after.metrics})
    print_verdict(before.metrics, after.metrics)
    say("adapter {}\nMLflow  {}; to compare runs: vop ui", after.kept, after.run.uri)


def train(
    recipe: Annotated[str, typer.Argument(help=RECIPE, autocompletion=complete_recipe)] = "",
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be decoded and trained")] = False,
    resume: Annotated[
        str,
        typer.Option(help="a run that died, to go on with as it began: the start of its id, or the folder of its adapter"),
    ] = "",
) -> None:
    """Train a recipe and score the test split once with the checkpoint that is best on validation."""
    if resume:
        given = [word for word in (recipe, *(overrides or [])) if word]
        _print_trained(_resumed(resume, [*given, "--dry-run"] if dry_run else given))
        return
    if not recipe:
        raise ConfigError("vop train needs a recipe, such as toy, or --resume RUN")
    experiment = load_experiment(recipe, overrides or [])
    if dry_run:
        from pipelines.train.plan import plan

        print_plan(experiment, plan(experiment))
        return
    from pipelines.train.run import run_experiment

    _print_trained(run_experiment(experiment))


def _resumed(run: str, words: list[str]) -> Result:
    from pipelines.train.resume import PLACES, resume

    places = {key: value for key, equals, value in (word.partition("=") for word in words) if equals and key in PLACES}
    if other := [word for word in words if not word.startswith("tracking.") and word.partition("=")[0] not in places]:
        valid = ", ".join(("tracking.*", *PLACES))
        raise ConfigError(f"--resume {run} goes on with what the run recorded: {other[0]} cannot be said; valid: {valid}")
    tracking = load_experiment("", [word for word in words if word.startswith("tracking.")]).tracking
    return resume(run, tracking, places)


def _print_trained(result: Result) -> None:
    """Test scores, or validation scores where there is no test split, and where all of it is."""
    split = "test" if result.metrics else "val"
    print_results({result.experiment.name: result.metrics or result.validation}, split)
    say("adapter {}\nMLflow  {}, run {}", result.kept, result.run.uri, result.run.id)


def check(recipe: Recipe, overrides: Overrides = None) -> None:
    """Can a recipe be trained here? Model, videos, room, places and tracking are looked at in seconds; nothing is trained."""
    experiment = load_experiment(recipe, overrides or [])
    from pipelines.train.plan import plan

    print_check(plan(experiment))


def tune(
    overrides: RecipeAndOverrides = None,
    benchmarks: Annotated[
        str, typer.Option("--recipes", help="several recipes with commas; didemo:key=value is an override of one of them")
    ] = "",
    space: Annotated[str, typer.Option(help="a file of tune_spaces/, or a .py file; several with commas")] = "",
    sampler: Annotated[str, typer.Option(help="grid, random, or tpe (Optuna, which learns from the trials)")] = "grid",
    samples: Annotated[int, typer.Option(min=1, help="points for random and tpe, draws a grid point for a distribution")] = 10,
    seeds: Annotated[int, typer.Option(min=1, help="trainings of each point, with seeds one apart")] = 1,
    asha: Annotated[bool, typer.Option("--asha", help="stop weak trials early (ASHA, on validation)")] = False,
    name: Annotated[str, typer.Option(help="of the sweep; default: recipe-space")] = "",
    learning_rates: Annotated[
        str, typer.Option(help="a sweep, or a file of vop report --export: each method takes its best rate there")
    ] = "",
    resume: Annotated[str, typer.Option(help="the name of a sweep to finish; the other options are those it began with")] = "",
) -> None:
    """Train every point of a space; one MLflow run each, compared on validation, scored on test once."""
    if not resume and not space:
        raise ConfigError("vop tune needs --space NAME, or --resume SWEEP")
    trees = _recipes(benchmarks, overrides or [])
    experiment = validated(next(iter(trees.values())))
    if not resume:
        check_words(space, sampler)
    from pipelines.sweep import run as sweeps
    from pipelines.sweep.record import Settings, best_rates

    if resume:
        swept = sweeps.resume(resume, experiment.tracking, trees)
    else:
        rates = best_rates(learning_rates, experiment.tracking) if learning_rates else {}
        settings = Settings(trees, space, sampler, samples, seeds, asha, rates)
        of = "-".join(trees) or experiment.name
        swept = sweeps.start(name or f"{of}-{'-'.join(Path(part).stem for part in space.split(','))}", settings)
    print_points(swept)


def _recipes(names: str, words: list[str]) -> dict[str, Tree]:
    """The raw trees of a sweep's recipes by name; of one recipe alone without a name."""
    if not names:
        return {"": raw_tree(*recipe_and_overrides(words))}
    if words and "=" not in words[0]:
        raise ConfigError(f"{words[0]}: give one recipe, or several with --recipes")
    return {name: raw_tree(*given) for name, given in recipe_words(names, words).items()}


def config(
    words: Annotated[list[str] | None, typer.Argument(help="a key or a section; or a recipe and key=value")] = None,
) -> None:
    """What a recipe can say: all keys, or one key or section; with a recipe or key=value, the experiment that would run."""
    from vop.config.describe import explained, is_key, keys

    recipe, overrides = recipe_and_overrides(words)
    if words and not is_key(recipe):
        for line in explained(load_experiment(recipe, overrides)).splitlines():
            say("{}", line)
    elif len(words or []) > 1:
        raise ConfigError(f"{recipe} is a key: give one key or section, or a recipe and key=value")
    else:
        print_keys(keys(recipe))
