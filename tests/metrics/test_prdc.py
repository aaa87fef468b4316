"""Precision, recall, density and coverage against reference implementations and published expectations."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from advae.metrics import prdc as prdc_module
from advae.metrics.bootstrap import half_subsamples
from advae.metrics.prdc import nearest_neighbors, prdc, radii_in_halves

pytestmark = pytest.mark.usefixtures("double")

SIGMAS = 5.0  # standard errors by which an estimate may differ from the exact value: 6e-7 for a normal one


def reference_radius(points: Tensor, i: int, k: int) -> float:
    return sorted(float((points[i] - p).norm()) for j, p in enumerate(points) if j != i)[k - 1]


def reference_prdc(x: Tensor, y: Tensor) -> dict[str, float]:
    """The four metrics by double loops over distances."""
    near_x, wide_x = ([reference_radius(x, i, k) for i in range(len(x))] for k in (3, 5))
    near_y = [reference_radius(y, j, 3) for j in range(len(y))]
    d = [[float((b - a).norm()) for b in y] for a in x]
    n, m = range(len(x)), range(len(y))
    return {
        "precision": sum(any(d[i][j] < near_x[i] for i in n) for j in m) / len(y),
        "recall": sum(any(d[i][j] < near_y[j] for j in m) for i in n) / len(x),
        "density": sum(d[i][j] < wide_x[i] for i in n for j in m) / (5 * len(y)),
        "coverage": sum(any(d[i][j] < wide_x[i] for j in m) for i in n) / len(x),
    }


def test_neighbourhood_metrics_are_their_formulas_for_all_and_for_half_subsamples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exactly, as they are counts; for any chunk size; in halves with the radii of the half."""
    x, y = torch.randn(40, 3), 1 + 0.6 * torch.randn(40, 3)
    halves, exact = half_subsamples(40, 20, 0), reference_prdc(x, y)
    assert all(0.1 < value < 0.99 for value in exact.values())
    for rows in (512, 7):
        monkeypatch.setattr(prdc_module, "DISTANCE_CHUNK_SIZE", rows)
        metrics = prdc(x, y, halves)
        assert {name: e.value for name, e in metrics.items()} == pytest.approx(exact, abs=1e-12)
        for r in range(3):
            half = reference_prdc(x, y[halves[r].bool()])
            assert {name: f.replicates[r].item() for name, f in metrics.items()} == pytest.approx(
                half, abs=1e-12
            )


def test_identical_sets_have_1_and_disjoint_sets_0() -> None:
    """A ball contains its center and the k − 1 nearest: a density of exactly 1, if the k-th is outside."""
    x = torch.randn(300, 8)
    same = prdc(x, x.clone(), half_subsamples(300, 20, 0))
    assert {name: e.value for name, e in same.items()} == pytest.approx(dict.fromkeys(same, 1.0), abs=1e-12)
    far = prdc(x, x + 1000, half_subsamples(300, 20, 0))
    assert all(e.value == 0 for e in far.values())


def test_coverage_of_real_data_is_that_of_the_paper() -> None:
    """Equal distributions, n = m: E coverage = 1 − (n − 1)…(n − k) / ((2n − 1)…(2n − k)) (Naeem et al. 2020, lemma 2).

    A fraction p of n independent images has variance p (1 − p)/n; twice that, as they share the generated images.
    """
    n = 1000
    expected = 1 - math.prod((n - i) / (2 * n - i) for i in range(1, 6))
    metrics = prdc(torch.randn(n, 4), torch.randn(n, 4), half_subsamples(n, 5, 0))["coverage"]
    assert metrics.value == pytest.approx(expected, abs=SIGMAS * math.sqrt(2 * 0.97 * 0.03 / n))
    assert expected == pytest.approx(1 - 0.5**5, abs=0.001)


def test_radii_in_a_half_equal_those_of_the_half_alone() -> None:
    y = torch.randn(30, 3)
    halves = half_subsamples(30, 5, 0)
    radii = radii_in_halves(*nearest_neighbors(y, 24), halves)
    for row, radius in zip(halves.bool(), radii, strict=True):
        alone = [reference_radius(y[row], i, 3) ** 2 for i in range(15)]
        torch.testing.assert_close(radius[row], torch.tensor(alone), rtol=1e-8, atol=0)
        assert (radius[~row] == -1).all()
