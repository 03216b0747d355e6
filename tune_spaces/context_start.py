"""How large the prompts of VoP^C and VoP^F+C are at first: torch's own start of the layer that makes them, and smaller ones."""

from ray.tune import grid_search

SPACE = {
    "method": grid_search(["VoP^C", "VoP^F+C"]),
    "video_prompt.init_scale": grid_search([1.0, 0.3, 0.1, 0.03]),
}
METRIC, MODE = "val/t2v/R1", "max"
