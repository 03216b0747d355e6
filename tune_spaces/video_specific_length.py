"""Figure 6: how many of a layer's 8 video prompts are the frame's own."""

from ray.tune import grid_search

SPACE = {
    "method": grid_search(["VoP^P", "VoP^C"]),
    "video_prompt.specific_length": grid_search([1, 2, 4, 6, 8]),
}
METRIC, MODE = "val/t2v/R1", "max"
