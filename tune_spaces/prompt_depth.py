"""Figure 4: which layers carry prompts, of both encoders; counted from 1, the input side, of 12."""

from ray.tune import grid_search

SPACE = {"text_prompt.depth, video_prompt.depth": grid_search(["1-1", "1-3", "1-6", "1-9", "4-12", "7-12", "10-12", "all"])}
METRIC, MODE = "val/t2v/R1", "max"
