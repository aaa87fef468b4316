"""Seeds are well mixed."""

from __future__ import annotations

from advae.random import mix_seeds


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
