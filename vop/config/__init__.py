"""A run in words: `sections`, `experiment` say what there is to say, `load` reads it, `kinds` finds the file that a name means.

YAML recipe -> raw tree -> dotted overrides -> Experiment (validated once) -> JSON for Ray, flat dotted keys for MLflow.
Importing this package pulls in neither torch nor ray; only the file of a chosen kind (`vop/prompts/context.py` for
`video_prompt.name=context`) is imported when an experiment that names it is validated.
"""

from vop.config.experiment import Experiment, Tree, layers_of
from vop.config.kinds import PACKAGES, ConfigError, config_of, kind, kinds, kinds_of
from vop.config.load import is_override, load_experiment, raw_tree, recipe_file, recipe_words, recipes, validated, with_value
from vop.config.params import NOTHING, params_of, read_params
from vop.config.sections import (
    BackboneConfig,
    BenchmarkConfig,
    DataConfig,
    FramesConfig,
    HeadConfig,
    PromptConfig,
    ResourcesConfig,
    Section,
    TextPromptConfig,
    TrackingConfig,
    TrainingConfig,
    TuningConfig,
    VideoEncoderConfig,
    VideoPromptConfig,
)

__all__ = [
    "NOTHING",
    "PACKAGES",
    "BackboneConfig",
    "BenchmarkConfig",
    "ConfigError",
    "DataConfig",
    "Experiment",
    "FramesConfig",
    "HeadConfig",
    "PromptConfig",
    "ResourcesConfig",
    "Section",
    "TextPromptConfig",
    "TrackingConfig",
    "TrainingConfig",
    "Tree",
    "TuningConfig",
    "VideoEncoderConfig",
    "VideoPromptConfig",
    "config_of",
    "is_override",
    "kind",
    "kinds",
    "kinds_of",
    "layers_of",
    "load_experiment",
    "params_of",
    "raw_tree",
    "read_params",
    "recipe_file",
    "recipe_words",
    "recipes",
    "validated",
    "with_value",
]
