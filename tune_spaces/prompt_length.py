"""Figure 5: tokens in each prompted layer, of both encoders. Choose the variant by override (video_prompt.name=...)."""

from ray.tune import grid_search

SPACE = {"text_prompt.length, video_prompt.length": grid_search([1, 2, 4, 8, 16])}
METRIC, MODE = "val/t2v/R1", "max"
