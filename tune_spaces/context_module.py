"""Table 4: what models the context of frames in VoP^C, and what becomes of it: prompts, or the CLS token."""

from ray.tune import grid_search

SPACE = {
    "method": grid_search(["VoP^C"]),
    "video_prompt.module": grid_search(["bilstm", "lstm", "transformer"]),
    "video_prompt.role": grid_search(["prompts", "cls"]),
}
METRIC, MODE = "val/t2v/R1", "max"
