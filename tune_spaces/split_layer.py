"""Figure 6: up to which layer VoP^F attends inside a frame; 12 of 12 is basic VoP."""

from ray.tune import grid_search

SPACE = {"video_encoder.split_layer": grid_search([2, 4, 6, 8, 10, 12])}
METRIC, MODE = "val/t2v/R1", "max"
