"""The learning rate of every method that trains, in the paper's range; `all_methods --learning-rates` takes the best."""

from ray.tune import grid_search

from vop.paper.methods import ANYWHERE

SPACE = {
    "method": grid_search([name for name in ANYWHERE if name != "zero-shot"]),
    "training.learning_rate": grid_search([1e-6, 1e-5, 1e-4, 1e-3, 1e-2]),
}
METRIC, MODE = "val/t2v/R1", "max"
