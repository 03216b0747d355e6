"""Table 3: prompts in one encoder, in both, in neither."""

from ray.tune import grid_search

SPACE = {"method": grid_search(["zero-shot", "VoP text only", "VoP visual only", "VoP"])}
METRIC, MODE = "val/t2v/R1", "max"
