"""Prompt length, depth and variant together: what to train on a new benchmark. TPE starts with the paper's settings."""

from ray.tune import grid_search

LENGTH, DEPTH = "text_prompt.length, video_prompt.length", "text_prompt.depth, video_prompt.depth"

SPACE = {
    "method": grid_search(["VoP", "VoP^P", "VoP^C", "VoP^F", "VoP^F+P", "VoP^F+C"]),
    LENGTH: grid_search([4, 8, 16]),
    DEPTH: grid_search(["1-6", "7-12", "all"]),
}
METRIC, MODE = "val/t2v/R1", "max"
FIRST = [{"method": method, LENGTH: 8, DEPTH: "all"} for method in ("VoP", "VoP^P", "VoP^C", "VoP^F", "VoP^F+P", "VoP^F+C")]
