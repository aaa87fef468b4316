"""Sample metrics against closed forms, and against the same formulas written out in double loops."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from scipy import stats
from scipy.linalg import sqrtm
from torch import Tensor

from advae.metrics import frechet as moments
from advae.metrics import prdc as manifold
from advae.metrics.bootstrap import Figure, halves
from advae.metrics.frechet import (
    SPLIT_FROM,
    Moments,
    frechet,
    frechet_distance,
    inception_score,
    kernel_distance,
)
from advae.metrics.memorization import copying, mann_whitney, nearest_of, share_of_copies, verdict
from advae.metrics.prdc import neighbours, prdc, radii_in_halves

pytestmark = pytest.mark.usefixtures("double")

SIGMAS = 5.0  # standard errors that an estimate may lie from the truth: 6e-7 for a normal one


def covariance(d: int) -> Tensor:
    """A random covariance with eigenvalues that are far from equal."""
    a = torch.randn(d, d)
    return a @ a.T / d + 0.01 * torch.eye(d)


# --- Fréchet distance ---------------------------------------------------------------------------------------


def test_frechet_distance_of_commuting_normals_is_that_of_their_standard_deviations() -> None:
    """On a common basis of eigenvectors: ‖μ_a − μ_b‖² + Σ (σ_a − σ_b)². To rounding, 1e-10 of numbers of order 10."""
    basis = torch.linalg.qr(torch.randn(6, 6)).Q
    s, t = torch.rand(6) + 0.1, 3 * torch.rand(6)
    mean = torch.randn(2, 6)
    a, b = (Moments(m, basis * v.square() @ basis.T) for m, v in zip(mean, (s, t), strict=True))
    exact = (mean[0] - mean[1]).square().sum() + (s - t).square().sum()
    assert frechet(a, b) == pytest.approx(float(exact), abs=1e-10)
    assert frechet(a, a) == pytest.approx(0, abs=1e-10)


def test_frechet_distance_of_any_normals_is_its_formula() -> None:
    """The root of the unsymmetric Σ_a Σ_b by another program; and the same from either side. To 1e-9."""
    a, b = Moments(torch.randn(20), covariance(20)), Moments(torch.randn(20), covariance(20))
    cross = torch.from_numpy(sqrtm((a.cov @ b.cov).numpy()).real)
    exact = float((a.mean - b.mean).square().sum() + (a.cov + b.cov - 2 * cross).trace())
    assert exact > 1
    assert frechet(a, b) == pytest.approx(exact, abs=1e-9)
    assert frechet(b, a) == pytest.approx(exact, abs=1e-9)


def test_frechet_distance_bears_singular_covariances() -> None:
    """diag(4, 0) and diag(1, 0): (2 − 1)². The root of a rounding error of 1e-16 is 1e-8."""
    a, b = (Moments(torch.zeros(2), torch.diag(torch.tensor([v, 0.0]))) for v in (4.0, 1.0))
    assert frechet(a, b) == pytest.approx(1.0, abs=1e-7)


def test_frechet_distance_of_draws_is_that_of_their_normals() -> None:
    """One feature, N(0, 1) and N(0.5, 2²): 0.25 + 1.

    With n = 20,000 each, the variance of a mean's difference is v = (1 + 4)/n, that of a standard deviation's half of
    it: the squares have standard errors of 2 · 0.5 √v and 2 · 1 √(v/2); the bias, v + v/2, is a fiftieth of that.
    """
    n = 20_000
    x, y = torch.randn(n, 1), 0.5 + 2 * torch.randn(n, 1)
    found = frechet_distance(x, y, halves(n, 20, 0))
    error = math.sqrt(5 / n * (1 + 2))
    assert found.value == pytest.approx(1.25, abs=SIGMAS * error)
    assert SIGMAS * error < 0.2


def test_covariances_are_divided_by_n_minus_one() -> None:
    """Two points at ±1 have a variance of 2; against a reference of variance 2 and mean 0, distance 0."""
    x = torch.tensor([[1.0], [-1.0]])
    assert moments.moments(x).cov.item() == 2
    assert moments.moments(x.repeat(3, 1), torch.tensor([1.0, 1.0, 0, 0, 0, 0])).cov.item() == 2


# --- kernel distance ----------------------------------------------------------------------------------------


def naive_kernel_distance(x: Tensor, y: Tensor) -> float:
    """The unbiased estimate by double loops."""

    def k(a: Tensor, b: Tensor) -> float:
        return float(torch.dot(a, b) / len(a) + 1) ** 3

    among_x = [k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j]
    among_y = [k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j]
    across = [k(a, b) for a in x for b in y]
    return sum(among_x) / len(among_x) + sum(among_y) / len(among_y) - 2 * sum(across) / len(across)


def test_kernel_distance_is_its_formula_for_all_and_for_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """To rounding, whatever the number of rows at a time."""
    x, y = torch.randn(9, 4), 0.5 + torch.randn(14, 4)
    drawn = halves(14, 20, 0)
    for rows in (512, 5, 1):
        monkeypatch.setattr(moments, "ROWS", rows)
        found = kernel_distance(x, y, drawn)
        assert found.value == pytest.approx(naive_kernel_distance(x, y), abs=1e-12)
        for value, row in zip(found.replicates[:3], drawn, strict=False):
            assert value.item() == pytest.approx(naive_kernel_distance(x, y[row.bool()]), abs=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_kernel_distance_is_unbiased(shift: float) -> None:
    """One feature, N(0, 1) and N(a, 1): E[(x x' + 1)³] by moments; the mean of 1,600 estimates of 20 against 30.

    E (x x' + 1)³ = m₃ m₃' + 3 m₂ m₂' + 3 m₁ m₁' + 1 for independent x, x', with m₁ = a, m₂ = 1 + a², m₃ = a³ + 3a.
    """

    def expected(a: float, b: float) -> float:
        third, second = (a**3 + 3 * a) * (b**3 + 3 * b), (1 + a * a) * (1 + b * b)
        return third + 3 * second + 3 * a * b + 1

    exact = expected(0, 0) + expected(shift, shift) - 2 * expected(0, shift)
    drawn = halves(30, 20, 0)
    values = torch.tensor(
        [kernel_distance(torch.randn(20, 1), shift + torch.randn(30, 1), drawn).value for _ in range(1600)]
    )
    error = values.std().item() / 40
    assert values.mean().item() == pytest.approx(exact, abs=SIGMAS * error)
    # With the pairs (x, x) it would be larger by E (x² + 1)³ − E (x x' + 1)³ = 28 − 4 over 20 and over 30, or more.
    assert SIGMAS * error < 24 / 20 + 24 / 30


# --- inception score ----------------------------------------------------------------------------------------


def test_inception_score_of_sure_and_even_classes_is_their_number_and_of_constant_ones_is_1() -> None:
    sure = 1000 * torch.eye(7).repeat(10, 1)
    constant = torch.tensor([[0.3, -1.0, 2.0]]).expand(70, 3)
    drawn = halves(70, 20, 0)
    assert inception_score(sure, drawn).value == pytest.approx(7, abs=1e-12)
    assert inception_score(constant, drawn).value == pytest.approx(1, abs=1e-12)


def naive_inception_score(logits: Tensor) -> float:
    p = [[math.exp(v) for v in row] for row in logits.log_softmax(1).tolist()]
    marginal = [sum(column) / len(p) for column in zip(*p, strict=True)]
    kl = [sum(a * math.log(a / b) for a, b in zip(row, marginal, strict=True)) for row in p]
    return math.exp(sum(kl) / len(kl))


def test_inception_score_is_its_formula_and_its_mean_over_ten_parts_from_5000_images_on() -> None:
    few, many = 2 * torch.randn(60, 4), 2 * torch.randn(SPLIT_FROM, 4)
    drawn = halves(60, 20, 0)
    found = inception_score(few, drawn)
    assert found.value == pytest.approx(naive_inception_score(few), abs=1e-10)
    assert found.replicates[0].item() == pytest.approx(naive_inception_score(few[drawn[0].bool()]), abs=1e-10)
    parts = [naive_inception_score(part) for part in many.split(SPLIT_FROM // 10)]
    value = inception_score(many, halves(SPLIT_FROM, 20, 0)).value
    assert value == pytest.approx(sum(parts) / 10, abs=1e-10)
    assert abs(value - naive_inception_score(many)) > 1e-4  # else the parts would show nothing


# --- precision, recall, density, coverage -------------------------------------------------------------------


def naive_radius(points: Tensor, i: int, k: int) -> float:
    return sorted(float((points[i] - p).norm()) for j, p in enumerate(points) if j != i)[k - 1]


def naive_prdc(x: Tensor, y: Tensor) -> dict[str, float]:
    """The four figures by double loops over distances."""
    near_x, wide_x = ([naive_radius(x, i, k) for i in range(len(x))] for k in (3, 5))
    near_y = [naive_radius(y, j, 3) for j in range(len(y))]
    d = [[float((b - a).norm()) for b in y] for a in x]
    n, m = range(len(x)), range(len(y))
    return {
        "precision": sum(any(d[i][j] < near_x[i] for i in n) for j in m) / len(y),
        "recall": sum(any(d[i][j] < near_y[j] for j in m) for i in n) / len(x),
        "density": sum(d[i][j] < wide_x[i] for i in n for j in m) / (5 * len(y)),
        "coverage": sum(any(d[i][j] < wide_x[i] for j in m) for i in n) / len(x),
    }


def test_neighbourhood_metrics_are_their_formulas_for_all_and_for_halves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Counts, so exactly; whatever the number of rows at a time; in halves with the radii of the half."""
    x, y = torch.randn(40, 3), 1 + 0.6 * torch.randn(40, 3)
    drawn, exact = halves(40, 20, 0), naive_prdc(x, y)
    assert all(0.1 < value < 0.99 for value in exact.values())
    for rows in (512, 7):
        monkeypatch.setattr(manifold, "ROWS", rows)
        found = prdc(x, y, drawn)
        assert {name: figure.value for name, figure in found.items()} == pytest.approx(exact, abs=1e-12)
        for r in range(3):
            half = naive_prdc(x, y[drawn[r].bool()])
            assert {name: f.replicates[r].item() for name, f in found.items()} == pytest.approx(
                half, abs=1e-12
            )


def test_identical_sets_have_1_and_disjoint_sets_0() -> None:
    """A ball holds its centre and its k − 1 nearest: a density of exactly 1, if the k-th stays outside."""
    x = torch.randn(300, 8)
    same = prdc(x, x.clone(), halves(300, 20, 0))
    assert {name: figure.value for name, figure in same.items()} == pytest.approx(
        dict.fromkeys(same, 1.0), abs=1e-12
    )
    far = prdc(x, x + 1000, halves(300, 20, 0))
    assert all(figure.value == 0 for figure in far.values())


def test_real_data_against_real_data_have_the_coverage_of_the_paper() -> None:
    """Equal distributions, n = m: E coverage = 1 − (n − 1)…(n − k) / ((2n − 1)…(2n − k)) (Naeem et al. 2020, lemma 2).

    A share p of n independent images has the variance p (1 − p)/n; twice that, for they share the judged images.
    """
    n = 2500
    expected = 1 - math.prod((n - i) / (2 * n - i) for i in range(1, 6))
    found = prdc(torch.randn(n, 4), torch.randn(n, 4), halves(n, 100, 0))["coverage"]
    assert found.value == pytest.approx(
        expected, abs=SIGMAS * 0.009
    )  # √(0.97 · 0.03 / n), and half as much for X
    assert expected == pytest.approx(1 - 0.5**5, abs=0.001)


def test_radii_within_a_half_are_those_of_the_half_alone() -> None:
    y = torch.randn(30, 3)
    drawn = halves(30, 5, 0)
    radii = radii_in_halves(*neighbours(y, 24), drawn)
    for row, radius in zip(drawn.bool(), radii, strict=True):
        alone = [naive_radius(y[row], i, 3) ** 2 for i in range(15)]
        torch.testing.assert_close(radius[row], torch.tensor(alone), rtol=1e-8, atol=0)
        assert (radius[~row] == -1).all()


# --- bootstrap ----------------------------------------------------------------------------------------------


def test_halves_are_halves_and_their_means_have_the_variance_of_a_mean() -> None:
    """S²/h − S²/m = S²/m. The variance of 4,000 replicates is known to √(2/4000) = 2.2 %; 5 of them."""
    values = torch.randn(50)
    drawn = halves(50, 4000, 0)
    assert (drawn.sum(1) == 25).all() and set(drawn.unique().tolist()) == {0.0, 1.0}
    assert drawn.mean(0).sub(0.5).abs().max() < SIGMAS * 0.5 / math.sqrt(4000)  # each as often as the others
    found = Figure(values.mean().item(), drawn @ values / 25)
    assert found.stderr == pytest.approx(values.std().item() / math.sqrt(50), rel=SIGMAS * 0.022)


def covers(figures: list[Figure], truth: float) -> int:
    return sum(low <= truth <= high for low, high in (figure.interval for figure in figures))


def test_interval_of_a_mean_covers_it_at_95_percent() -> None:
    """400 samples of 60 numbers: 380 ± 4.4. The 2.5 % points of 400 replicates lie inward by some 0.1 %, and with 60
    numbers a normal quantile where Student's belongs costs 0.5 %: 377.5. Four standard deviations either way."""
    figures = []
    for seed in range(400):
        values = torch.randn(60)
        figures.append(Figure(values.mean().item(), halves(60, 400, seed) @ values / 30))
    assert 360 <= covers(figures, 0.0) <= 396


def test_interval_of_a_frechet_distance_covers_its_mean_at_this_number_of_images() -> None:
    """Its bias, larger than its noise, is not taken for noise: of 150 intervals 132 or more cover the mean.

    0.88 is four standard deviations below 0.95; the 2.5 % points of 60 replicates lie inward by 2 %, of which one is
    left. The mean itself is known to a twelfth of the noise.
    """
    reference, d = torch.randn(2000, 10), 10
    figures = [
        frechet_distance(reference, 0.1 + 1.1 * torch.randn(100, d), halves(100, 60, seed))
        for seed in range(150)
    ]
    values = torch.tensor([figure.value for figure in figures])
    assert covers(figures, values.mean().item()) >= 132
    excess = torch.tensor([figure.excess for figure in figures])
    assert excess.mean() > values.std()  # else there would be no bias to be confused by
    widths = torch.tensor([figure.stderr for figure in figures])
    assert widths.mean().item() == pytest.approx(
        values.std().item(), rel=0.35
    )  # and not by being far too wide


def test_intervals_keep_to_what_a_figure_can_be() -> None:
    r = torch.linspace(-1, 1, 101)
    assert Figure(0.1, r, (0.0, math.inf)).interval == pytest.approx((0.0, 1.05))
    few = Figure(0.0, torch.linspace(-1, 1, 21))
    assert few.interval == pytest.approx((-2.1 * few.stderr, 2.1 * few.stderr))


# --- copying ------------------------------------------------------------------------------------------------


def test_mann_whitney_is_that_of_another_program_ties_included() -> None:
    a, b = torch.randint(0, 8, (30,)).double(), torch.randint(1, 9, (50,)).double()
    z = mann_whitney(a, b)
    theirs = stats.mannwhitneyu(a.numpy(), b.numpy(), use_continuity=False, method="asymptotic")
    assert z < 0  # a is the smaller
    assert 2 * stats.norm.sf(abs(z)) == pytest.approx(theirs.pvalue, rel=1e-9)


def test_share_of_copies_has_the_mean_and_error_of_every_possible_draw() -> None:
    """Eight real images, of which any three may be held out: the mean over all 56 draws is 0, the error theirs."""
    owners = torch.tensor([0, 0, 0, 1, 4, 5, 5, 7])  # the nearest real image of each sample
    found = []
    for held in combinations(range(8), 3):
        place = {real: i for i, real in enumerate([i for i in range(8) if i not in held])}
        place |= {real: i for i, real in enumerate(held)}
        is_held = torch.tensor([int(o) in held for o in owners]).double()
        index = torch.tensor([place[int(o)] for o in owners])
        zeros = torch.zeros_like(index)
        train = (
            is_held,
            torch.where(is_held == 0, index, zeros),
        )  # distance 0 to its owner, 1 to the other kind
        other = (1 - is_held, torch.where(is_held == 1, index, zeros))
        found.append(share_of_copies(train, other, 5, 3))
    shares, errors = torch.tensor(found).T
    assert shares.mean().item() == pytest.approx(0, abs=1e-12)
    assert errors[0].item() == pytest.approx(shares.std(correction=0).item(), rel=1e-12)
    torch.testing.assert_close(errors, errors[:1].expand(56))


def test_honest_samples_are_not_taken_for_copies() -> None:
    """z over 40 experiments: mean 0 ± 1/√40, standard deviation 1; the share of copies 0 within its errors."""
    found = [copying(torch.randn(600, 6), torch.randn(150, 6), torch.randn(150, 6)) for _ in range(40)]
    z = torch.tensor([f.z for f in found])
    assert abs(z.mean().item()) < SIGMAS / math.sqrt(40)
    assert z.std().item() == pytest.approx(1, abs=SIGMAS / math.sqrt(2 * 40))
    copies = torch.tensor([f.copies / f.copies_error for f in found])
    assert abs(copies.mean().item()) < SIGMAS / math.sqrt(40)
    assert (
        sum(verdict(f, "test images")[1] for f in found) <= 2
    )  # a warning at 3 errors, or 2 where z is odd too


def test_copies_are_found_and_counted() -> None:
    """All of the samples, and three in ten; the share within its own error."""
    train, held = torch.randn(3000, 8), torch.randn(600, 8)
    copies = train[:600] + 1e-3 * torch.randn(600, 8)
    all_of_them = copying(train, held, copies)
    assert all_of_them.z < -20 and all_of_them.copies == 1 and all_of_them.ratio < 0.01
    text, warning = verdict(all_of_them, "test images")
    assert warning and "memorising" in text and "100%" in text
    assert torch.equal(all_of_them.nearest, torch.arange(600))
    some = copying(train, held, torch.cat([copies[:180], torch.randn(420, 8)]))
    assert some.copies == pytest.approx(0.3, abs=3 * some.copies_error)
    assert 3 * some.copies_error < 0.3  # else nothing would be seen
    assert verdict(some, "test images")[1]


def test_caution_is_not_taken_for_copying() -> None:
    """Samples of half the width lie nearer to training images than held-out ones do, and nearer to those as well."""
    found = copying(torch.randn(5000, 3), torch.randn(2000, 3), 0.5 * torch.randn(1000, 3))
    text, warning = verdict(found, "test images")
    assert found.z < -3 and not warning and "no sign of memorising" in text
    wide = copying(torch.randn(1000, 3), torch.randn(300, 3), 2 * torch.randn(300, 3))
    assert wide.z > 3 and "farther" in verdict(wide, "test images")[0]


def test_nearest_images_do_not_depend_on_the_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = torch.randn(50, 5), torch.randn(70, 5)
    exact = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").min(1)
    for rows in (512, 7):
        monkeypatch.setattr(manifold, "ROWS", rows)
        distance, place = nearest_of(a, b)
        torch.testing.assert_close(distance, exact.values, rtol=1e-12, atol=0)
        assert torch.equal(place, exact.indices)


# --- another program ----------------------------------------------------------------------------------------


def test_figures_are_those_of_torchmetrics() -> None:
    """On features of their own images; KID with all images in one subset, IS in ten parts. They add up in float64."""
    fid = pytest.importorskip("torchmetrics.image.fid")
    kid = pytest.importorskip("torchmetrics.image.kid")
    score = pytest.importorskip("torchmetrics.image.inception")

    class Flat(torch.nn.Module):
        num_features = 12

        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1).double() / 50

    real = torch.randint(0, 256, (300, 3, 2, 2), dtype=torch.uint8)
    fake = (torch.randint(0, 256, (300, 3, 2, 2)) * 0.8).to(torch.uint8)
    x, y = Flat()(real), Flat()(fake)
    theirs = fid.FrechetInceptionDistance(feature=Flat(), normalize=False).set_dtype(torch.float64)
    kernel = kid.KernelInceptionDistance(feature=Flat(), subsets=1, subset_size=300)
    for metric in (theirs, kernel):
        metric.update(real, real=True)
        metric.update(fake, real=False)
    drawn = halves(300, 20, 0)
    assert frechet_distance(x, y, drawn).value == pytest.approx(float(theirs.compute()), rel=1e-9)
    assert kernel_distance(x, y, drawn).value == pytest.approx(float(kernel.compute()[0]), rel=1e-9)
    logits = 3 * torch.randn(SPLIT_FROM, 6)
    inception = score.InceptionScore(feature=torch.nn.Identity(), splits=10)
    torch.manual_seed(1)
    inception.features = [logits]
    mean, _ = inception.compute()
    torch.manual_seed(1)
    mine = logits[torch.randperm(len(logits))]
    assert inception_score(mine, halves(SPLIT_FROM, 20, 0)).value == pytest.approx(float(mean), rel=1e-9)
