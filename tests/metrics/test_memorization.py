"""The memorization test finds copies, and has its nominal level without them."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from scipy import stats

from advae.metrics import prdc as prdc_module
from advae.metrics.memorization import fraction_of_copies, mann_whitney, memorization_test, nearest_distance

pytestmark = pytest.mark.usefixtures("double")

SIGMAS = 5.0  # standard errors by which an estimate may differ from the exact value: 6e-7 for a normal one


def test_mann_whitney_equals_scipy_with_ties() -> None:
    a, b = torch.randint(0, 8, (30,)).double(), torch.randint(1, 9, (50,)).double()
    z = mann_whitney(a, b)
    theirs = stats.mannwhitneyu(a.numpy(), b.numpy(), use_continuity=False, method="asymptotic")
    assert z < 0  # a is the smaller
    assert 2 * stats.norm.sf(abs(z)) == pytest.approx(theirs.pvalue, rel=1e-9)


def test_fraction_of_copies_over_all_splits_has_mean_zero_and_its_standard_error() -> None:
    """Eight real images with any three held out: over all 56 splits the mean is 0 and the deviation is the error."""
    owners = torch.tensor([0, 0, 0, 1, 4, 5, 5, 7])  # the nearest real image of each sample
    results = []
    for held_out in combinations(range(8), 3):
        index_of = {real: i for i, real in enumerate([i for i in range(8) if i not in held_out])}
        index_of |= {real: i for i, real in enumerate(held_out)}
        is_held = torch.tensor([int(o) in held_out for o in owners]).double()
        index = torch.tensor([index_of[int(o)] for o in owners])
        zeros = torch.zeros_like(index)
        train = (
            is_held,
            torch.where(is_held == 0, index, zeros),
        )  # distance 0 to its owner, 1 to the other kind
        other = (1 - is_held, torch.where(is_held == 1, index, zeros))
        results.append(fraction_of_copies(train, other, 5, 3))
    shares, errors = torch.tensor(results).T
    assert shares.mean().item() == pytest.approx(0, abs=1e-12)
    assert errors[0].item() == pytest.approx(shares.std(correction=0).item(), rel=1e-12)
    torch.testing.assert_close(errors, errors[:1].expand(56))


def test_independent_samples_are_not_copies() -> None:
    """z over 40 experiments: mean 0 ± 1/√40, standard deviation 1; the fraction of copies 0 within its errors."""
    results = [
        memorization_test(torch.randn(600, 6), torch.randn(150, 6), torch.randn(150, 6)) for _ in range(40)
    ]
    z = torch.tensor([f.z for f in results])
    assert abs(z.mean().item()) < SIGMAS / math.sqrt(40)
    assert z.std().item() == pytest.approx(1, abs=SIGMAS / math.sqrt(2 * 40))
    copies = torch.tensor([f.copies / f.copies_stderr for f in results])
    assert abs(copies.mean().item()) < SIGMAS / math.sqrt(40)
    assert (
        sum(f.has_copies or f.is_inconclusive for f in results) <= 2
    )  # a warning at 3 standard errors, or 2 if z is significant too


def test_copies_are_detected_and_counted() -> None:
    """All samples, and three in ten; the fraction within its own error."""
    train, held_out = torch.randn(3000, 8), torch.randn(600, 8)
    copies = train[:600] + 1e-3 * torch.randn(600, 8)
    all_of_them = memorization_test(train, held_out, copies)
    assert all_of_them.z < -20 and all_of_them.copies == 1 and all_of_them.ratio < 0.01
    assert all_of_them.has_copies and all_of_them.is_too_close
    assert torch.equal(all_of_them.nearest, torch.arange(600))
    some = memorization_test(train, held_out, torch.cat([copies[:180], torch.randn(420, 8)]))
    assert some.copies == pytest.approx(0.3, abs=3 * some.copies_stderr)
    assert 3 * some.copies_stderr < 0.3  # else the test would have no power
    assert some.has_copies or some.is_inconclusive


def test_typical_samples_are_not_copies() -> None:
    """Samples of half the width are closer to training images than held-out ones are, but also closer to the latter."""
    typical = memorization_test(torch.randn(5000, 3), torch.randn(2000, 3), 0.5 * torch.randn(1000, 3))
    assert typical.z < -3 and typical.is_too_close and not (typical.has_copies or typical.is_inconclusive)
    wide = memorization_test(torch.randn(1000, 3), torch.randn(300, 3), 2 * torch.randn(300, 3))
    assert wide.z > 3 and not wide.is_too_close


def test_nearest_images_do_not_depend_on_the_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = torch.randn(50, 5), torch.randn(70, 5)
    exact = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").min(1)
    for rows in (512, 7):
        monkeypatch.setattr(prdc_module, "DISTANCE_CHUNK_SIZE", rows)
        distance, index_of = nearest_distance(a, b)
        torch.testing.assert_close(distance, exact.values, rtol=1e-12, atol=0)
        assert torch.equal(index_of, exact.indices)
