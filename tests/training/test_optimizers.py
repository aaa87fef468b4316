"""Learning rate schedules, Adam per player, clipping, and PyTorch's hook that skips updates."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from advae.training.optimizers import PlayerOptimizer, compute_lr_scale
from advae.training.train_options import TrainOptions
from training import tiny


def test_lr_schedules() -> None:
    constant = TrainOptions(steps=100)
    assert [compute_lr_scale(constant, s) for s in (0, 50, 99)] == [1.0, 1.0, 1.0]
    cosine = TrainOptions(steps=100, lr_schedule="cosine")
    expected = [0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * s / 100)) for s in range(100)]
    assert [compute_lr_scale(cosine, s) for s in range(100)] == pytest.approx(expected)
    assert compute_lr_scale(cosine, 0) == 1 and compute_lr_scale(cosine, 100) == pytest.approx(0.01)
    assert compute_lr_scale(cosine, 500) == pytest.approx(0.01)
    warmup = TrainOptions(steps=100, lr_warmup=4)
    assert [compute_lr_scale(warmup, s) for s in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    both = TrainOptions(steps=100, lr_warmup=10, lr_schedule="cosine")
    assert compute_lr_scale(both, 4) == pytest.approx(0.5 * expected[4])


def test_learning_rate_and_betas_of_each_player() -> None:
    options = TrainOptions(lr=1e-3, critic_lr=2e-3, beta1=0.5, critic_beta1=0.6, beta2=0.9, lr_warmup=2)
    step, batches = tiny.train_step({"name": "asvae"}, options), tiny.images(6)
    step(0, lambda i: next(batches))
    for name, optimizer in step.optimizers.items():
        group = optimizer.optimizer.param_groups[0]
        assert group["lr"] == pytest.approx((1e-3 if name == "model" else 2e-3) / 2)
        assert tuple(group["betas"]) == ((0.5, 0.9) if name == "model" else (0.6, 0.9))


def test_grad_clip_bounds_the_norm_of_each_player() -> None:
    for clip in (0.0, 1e-3):
        step, x = tiny.train_step({"name": "avb"}, TrainOptions(grad_clip=clip)), next(tiny.images(6))
        norms: dict[str, float] = {}
        for name, optimizer in step.optimizers.items():

            def record(optimizer: Any = optimizer, name: str = name, norms: dict[str, float] = norms) -> None:
                norms[name] = math.sqrt(sum(float(p.grad.square().sum()) for p in optimizer.parameters))

            optimizer.optimizer.step = record
        step(0, lambda i, x=x: x)
        for value in norms.values():
            assert value == pytest.approx(1e-3, rel=1e-3) if clip else value > 2e-3


def test_found_inf_of_fused_adam_skips_the_update_on_the_device() -> None:
    """PlayerOptimizer relies on ``found_inf``, GradScaler's private contract with fused optimizers."""
    flag, weight = torch.zeros((), dtype=torch.float32), torch.nn.Parameter(torch.ones(3))
    optimizer = PlayerOptimizer("model", [weight], TrainOptions(), flag)

    def update(gradient: float) -> bool:
        """Take a step and return whether the weight changed."""
        before = weight.detach().clone()
        weight.grad = torch.full_like(weight, gradient)
        optimizer.update(torch.ones(()))
        return not torch.equal(before, weight)

    assert update(1.0)
    moments = {key: value.clone() for key, value in optimizer.state().items()}
    flag.fill_(1.0)
    assert not update(math.nan)
    assert tiny.differing(optimizer.state(), moments) == [], "neither moments nor the step count change"
    flag.zero_()
    assert update(1.0)


def test_state_round_trip() -> None:
    weights = [torch.nn.Parameter(torch.randn(2, 3, 1, 1).to(memory_format=torch.channels_last))]
    flag = torch.zeros((), dtype=torch.float32)
    one, other = (PlayerOptimizer("model", weights, TrainOptions(), flag) for _ in range(2))
    weights[0].grad = torch.randn_like(weights[0])
    one.update(torch.ones(()))
    other.load_state({key: value.contiguous() for key, value in one.state().items()})
    assert tiny.differing(one.state(), other.state()) == []
    assert other.state()["0.exp_avg"].stride() == weights[0].stride(), "the fused update needs this layout"
