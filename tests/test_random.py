"""Seeds and random states."""

from __future__ import annotations

import pytest
import torch

from advae.random import get_rng_state, mix_seeds, preserve_rng_state, reseed, seeded, set_rng_state

CPU = torch.device("cpu")


def test_mixed_seeds_are_uniform_and_depend_on_the_order() -> None:
    seeds = {mix_seeds(a, b) for a in range(100) for b in range(100)}
    assert len(seeds) == 10_000 and all(0 <= seed < 2**63 for seed in seeds)
    # Each bit is on for half of them: standard deviation of the count is sqrt(10,000 / 4) = 50; 5 of them.
    counts = [sum(seed >> bit & 1 for seed in seeds) for bit in range(63)]
    assert max(abs(count - 5000) for count in counts) < 250
    assert (
        mix_seeds(1, 2) != mix_seeds(2, 1)
        and mix_seeds(0) != mix_seeds(0, 0)
        and mix_seeds(-1) != mix_seeds(1)
    )
    # splitmix64 from state 0 begins with this number (Vigna's reference program); ours drops its lowest bit.
    assert mix_seeds(0) == 0xE220A8397B1DCDAF >> 1


def test_seeded_blocks_repeat_and_restore_the_global_state() -> None:
    state = torch.get_rng_state()
    with seeded(3):
        first = torch.rand(4)
    with seeded(3, "cpu"):
        assert torch.equal(torch.rand(4), first)
    with pytest.raises(RuntimeError), seeded(4), preserve_rng_state():
        torch.rand(4)
        raise RuntimeError
    assert torch.equal(torch.get_rng_state(), state)
    with seeded(None):
        torch.rand(4)
    assert not torch.equal(torch.get_rng_state(), state)


def test_reseeding_is_global_and_states_can_be_restored() -> None:
    reseed(5, CPU)
    state, first = get_rng_state(CPU), torch.rand(4)
    set_rng_state(CPU, state)
    assert torch.equal(torch.rand(4), first)
