"""Table 1 and Figures 1 and 3: every variant, every baseline, what came since, and CLIP as it is."""

from ray.tune import grid_search

from vop.paper.methods import ANYWHERE

SPACE = {"method": grid_search(ANYWHERE)}
METRIC, MODE = "val/t2v/R1", "max"
