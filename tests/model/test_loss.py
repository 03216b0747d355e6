"""The losses: by hand, both directions alike, their gradients, and where there can be a sigmoid."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.families import as_open_clip, config_of, family
from vop.config import ConfigError, load_experiment
from vop.model.loss import contrastive_loss, sigmoid_loss
from vop.model.retrieval import build_model, shape_of_model


def scores_of(size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


def slow_loss(scores_BB: Tensor) -> float:
    """Minus the mean log probability of the truth, over all rows and all columns."""
    rows = scores_BB.tolist()
    lines = [(rows[i], i) for i in range(len(rows))] + [([row[j] for row in rows], j) for j in range(len(rows))]
    return sum(math.log(sum(math.exp(x) for x in line)) - line[truth] for line, truth in lines) / len(lines)


def test_two_pairs_by_hand() -> None:
    """Row losses ln(1 + e^-1), ln(1 + e^-1); column losses ln(1 + e^-2), ln 2."""
    scores_BB = torch.tensor([[2.0, 1.0], [0.0, 1.0]])
    rows, columns = 2 * math.log(1 + math.exp(-1)), math.log(1 + math.exp(-2)) + math.log(2)
    assert contrastive_loss(scores_BB).item() == pytest.approx((rows + columns) / 4, rel=1e-6)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_it_is_the_slow_loop(size: int) -> None:
    assert contrastive_loss(scores_of(size)).item() == pytest.approx(slow_loss(scores_of(size)), rel=1e-12)


def test_both_directions_count_alike() -> None:
    scores_BB = scores_of(5)
    torch.testing.assert_close(contrastive_loss(scores_BB), contrastive_loss(scores_BB.T))
    # One direction alone sees chance, ln 2, in one of these two.
    for biased in (torch.tensor([[0.0, 0.0], [5.0, 5.0]]), torch.tensor([[0.0, 5.0], [0.0, 5.0]])):
        assert contrastive_loss(biased).item() > math.log(2) + 0.5


def test_chance_is_ln_b_and_certainty_is_zero() -> None:
    assert contrastive_loss(torch.full((6, 6), 2.5)).item() == pytest.approx(math.log(6))
    assert contrastive_loss(100 * torch.eye(6)).item() == pytest.approx(0, abs=1e-6)
    assert contrastive_loss(-100 * torch.eye(6)).item() > 50


def test_the_gradient_is_the_mean_of_both_softmaxes_less_the_truth() -> None:
    scores_BB = scores_of(4).requires_grad_()
    contrastive_loss(scores_BB).backward()
    expected = (scores_BB.softmax(0) + scores_BB.softmax(1) - 2 * torch.eye(4)) / (2 * 4)
    torch.testing.assert_close(scores_BB.grad, expected.detach())
    assert torch.autograd.gradcheck(contrastive_loss, (scores_of(3).requires_grad_(),))


def test_the_order_of_the_pairs_does_not_matter() -> None:
    scores_BB, order = scores_of(5), torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(contrastive_loss(scores_BB[order][:, order]), contrastive_loss(scores_BB))
    assert abs(contrastive_loss(scores_BB[order]) - contrastive_loss(scores_BB)) > 0.1, "but who belongs to whom does"


@pytest.mark.parametrize("size", [1, 2, 7])
def test_a_sigmoid_looks_at_each_pair_by_itself(size: int) -> None:
    scores_BB = scores_of(size)
    expected = 0.0
    for i, row in enumerate(scores_BB.tolist()):
        for j, score in enumerate(row):
            expected += math.log(1 + math.exp(-score if i == j else score)) / size
    assert sigmoid_loss(scores_BB).item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(sigmoid_loss, (scores_of(3).requires_grad_(),))


def test_a_sigmoid_uses_the_scale_and_the_bias_of_the_weights_and_trains_neither(tmp_path: Path) -> None:
    model = build_model(
        load_experiment({"frames": {"count": 2}}, ["training.loss=sigmoid"]), family(tmp_path, "ViT-B-32-SigLIP2-256")
    )
    scores_BB = scores_of(3).float()
    expected = sigmoid_loss(scores_BB * model.clip.logit_scale.exp() - 10)
    torch.testing.assert_close(model.loss(scores_BB), expected)
    assert not any("logit" in name for name in model.trainable())


def test_a_sigmoid_needs_a_bias(tmp_path: Path) -> None:
    with as_open_clip(tmp_path, "ViT-B-32", config_of("ViT-B-32")) as config:
        tree = {"backbone": config.model_dump()}
        shape_of_model(load_experiment(tree))
        with pytest.raises(ConfigError, match=r"training\.loss: sigmoid needs a logit bias, small-ViT-B-32 has none"):
            shape_of_model(load_experiment(tree, ["training.loss=sigmoid"]))
