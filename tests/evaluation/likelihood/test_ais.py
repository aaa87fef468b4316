"""Annealed importance sampling and its Hamiltonian Monte Carlo against closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule

from advae import inductor
from advae.errors import ConfigError, NoDensityError
from advae.evaluation.eval_config import AISConfig, AISInit
from advae.evaluation.eval_data import CHUNK_SIZE, EvalData
from advae.evaluation.likelihood import log_density_grad
from advae.evaluation.likelihood.ais import Annealer, MakePath, ais, without_grad
from advae.evaluation.likelihood.annealing import AnnealingPath, anneal, make_temperatures, tune_step_sizes
from advae.evaluation.likelihood.bdmc import bdmc, gap_remark, generate
from advae.evaluation.likelihood.hmc import HMCState, leapfrog, transition
from advae.evaluation.likelihood.log_density_grad import LogDensityGrad, value_and_grad
from advae.model import LatentModel
from evaluation.toy import NOISE, data_of, exact, toy_model, weights

pytestmark = pytest.mark.usefixtures("double")


def gaussian(z: Tensor) -> HMCState:
    """``N(0, diag(1, 4))`` in two dimensions, unnormalized."""
    variance = torch.tensor([1.0, 4.0])
    return HMCState(z, -0.5 * (z.square() / variance).sum(-1), -z / variance)


def quartic(z: Tensor) -> HMCState:
    """``exp(−Σ z⁴/4)``: not quadratic, so that the leapfrog's error is its usual one."""
    return HMCState(z, -0.25 * z.pow(4).sum(-1), -z.pow(3))


def test_leapfrog_is_reversible() -> None:
    """Forward, with the momentum negated, and forward again: back at the start, to rounding (1e-12 in double)."""
    begin, v = quartic(torch.randn(50, 2)), torch.randn(50, 2)
    step = torch.full((50, 1), 0.05)
    there, v_there = leapfrog(quartic, begin, v, step, 20)
    back, v_back = leapfrog(quartic, there, -v_there, step, 20)
    torch.testing.assert_close(back.z, begin.z, atol=1e-12, rtol=0)
    torch.testing.assert_close(-v_back, v, atol=1e-12, rtol=0)


def test_leapfrog_is_of_second_order() -> None:
    """Over a fixed time the energy error falls as the square of the step: a slope of 2.

    The next term of the error is of fourth order, so at steps of 1/20 to 1/80 the slope is within about 1 % of 2.
    """
    begin, v = quartic(torch.randn(500, 2)), torch.randn(500, 2)
    errors = []
    for steps in (20, 40, 80):
        end, v_end = leapfrog(quartic, begin, v, torch.full((500, 1), 1 / steps), steps)
        before, after = (0.5 * u.square().sum(-1) - s.log_prob for u, s in ((v, begin), (v_end, end)))
        errors.append((after - before).abs().mean().log().item())
    slope = (errors[0] - errors[2]) / math.log(4)
    assert slope == pytest.approx(2, abs=0.05)


def test_transition_leaves_its_target_invariant() -> None:
    """Chains started in the target keep its second moments, at a step size that rejects a third of proposals.

    40,000 chains: the standard error of a variance is √(2/40,000) = 0.7 % of it; 4 of them. Without rejections the
    error is far larger (measured: with every proposal accepted the first variance is 15 % too large).
    """
    n = 40_000
    z = torch.randn(n, 2) * torch.tensor([1.0, 2.0])
    here, step = gaussian(z), torch.full((n, 1), 1.55)
    accepted = []
    for _ in range(10):
        here, accept = transition(gaussian, here, step, 3)
        accepted.append(accept.mean().item())
    assert 0.4 < sum(accepted) / 10 < 0.9  # otherwise rejections would not be tested
    error = 4 * math.sqrt(2 / n)
    assert here.z[:, 0].var().item() == pytest.approx(1, rel=error)
    assert here.z[:, 1].var().item() == pytest.approx(4, rel=error)


@pytest.mark.parametrize("schedule", ["sigmoid", "linear", "geometric"])
def test_temperatures_rise_from_zero_to_one(schedule: str) -> None:
    betas = make_temperatures(50, schedule)  # type: ignore[arg-type]
    assert betas[0] == 0 and betas[-1] == pytest.approx(1) and len(betas) == 51
    assert all(a < b for a, b in pairwise(betas))


def bimodal(z: Tensor) -> Tensor:
    """``5 · (0.3 N(−2, ½²) + 0.7 N(2, ½²))`` in each of two coordinates' product: normalizer 25."""
    parts = torch.stack([math.log(w) - 2 * (z - m).square() for w, m in ((0.3, -2.0), (0.7, 2.0))])
    one = torch.logsumexp(parts, 0) - math.log(0.5 * math.sqrt(2 * math.pi)) + math.log(5)
    return one.sum(-1)


def path_to(target: Callable[[Tensor], Tensor], chains: int, scale: float) -> AnnealingPath:
    """From ``N(0, scale² I)`` in two dimensions to ``target``."""
    return AnnealingPath(torch.zeros(chains, 2), torch.full((chains, 2), scale), target)


def test_normalizer_of_a_bimodal_target_is_unbiased() -> None:
    """The mean weight over 200 × 64 chains is within 4 standard errors of 25."""
    images, chains = 200, 64
    path, betas = path_to(bimodal, images * chains, 2.0), make_temperatures(60, "sigmoid")
    step = torch.full((images * chains, 1), 0.15)  # fixed: within the narrower mode's ½ / 2
    log_w, accept = anneal(path, path.sample_initial(), betas, lambda beta: step, 10)
    weights = log_w.reshape(chains, images).exp().mean(0)
    error = weights.std().item() / math.sqrt(images)
    assert error < 0.3 and accept.mean().item() < 1  # precise enough to detect an error of a few percent
    assert weights.mean().item() == pytest.approx(25, abs=4 * error)


def test_reverse_weights_from_exact_samples_are_unbiased() -> None:
    """From exact samples of a normal target with normalizer 3: the mean of 1/w within 4 standard errors of 1/3."""
    chains = 4000
    target_scale = torch.tensor([0.5, 1.5])

    def target(z: Tensor) -> Tensor:
        return torch.distributions.Normal(0.3, target_scale).log_prob(z).sum(-1) + math.log(3)

    path, step = path_to(target, chains, 1.2), torch.full((chains, 1), 0.3)
    u = path.whiten(0.3 + target_scale * torch.randn(chains, 2))
    log_w, _ = anneal(path, u, make_temperatures(30, "linear")[::-1], lambda beta: step, 5)
    inverse = log_w.exp()
    error = inverse.std().item() / math.sqrt(chains)
    assert error < 0.01
    assert inverse.mean().item() == pytest.approx(1 / 3, abs=4 * error)


SIZES = [(2, 20), (10, 50)]


@pytest.fixture
def model() -> LatentModel:
    return toy_model(width=1.5)


@pytest.mark.parametrize("init", ["prior", "encoder", "diagonal", "full"])
@pytest.mark.parametrize(("d", "n"), SIZES)
def test_ais_equals_the_evidence_of_a_linear_gaussian_model(d: int, n: int, init: AISInit) -> None:
    """Within 3 standard errors of the exact log p(x), by per-image differences, for each initial density.

    The bias of the log of a mean is half the variance of its relative error, which the effective sample size
    gives: ½ (1/ess − 1/C). It is subtracted before the comparison; a tenth of it is allowed for the next order.
    """
    model = toy_model(1.5, d, n)
    data = EvalData(data_of(model), limit=40)
    x = data.data.preprocessing.apply(data.data.test.raw(range(40)))
    estimate = ais(model, data, AISConfig(chains=16, temperatures=120, init=init))
    differences = estimate.per_example["value"] - exact(model, x)
    bias = -0.5 * (1 / estimate.per_example["ess"] - 1 / 16).mean().item()
    error = differences.std().item() / math.sqrt(40)
    assert error < (0.2 if init == "prior" else 0.1)  # precise enough to detect a third of a nat
    assert differences.mean().item() == pytest.approx(bias, abs=3 * error + 0.1 * abs(bias))
    assert estimate.kind == "lower bound" and estimate.protocol["temperatures"] == 120
    assert (
        bool((estimate.per_example["acceptance"] > 0.4).all())
        and estimate.per_example["ess"].mean().item() > 4
    )


@pytest.fixture
def traced_graphs(monkeypatch: pytest.MonkeyPatch) -> list[GraphModule]:
    """Graphs that are traced at any size and run without Inductor, which takes seconds."""
    graphs: list[GraphModule] = []

    def backend(graph: GraphModule, inputs: list[Tensor]) -> GraphModule:
        graphs.append(graph)
        return graph

    monkeypatch.setattr(inductor, "compile_graph", backend)
    monkeypatch.setattr(log_density_grad, "MIN_FLOP_TO_COMPILE", 0.0)
    return graphs


@pytest.mark.parametrize("init", ["prior", "full"])
def test_traced_gradient_gives_the_same_estimate(init: AISInit, request: pytest.FixtureRequest) -> None:
    """Bitwise, for batches of two sizes, with a diagonal and a triangular factor."""
    model = toy_model(1.0, 10, 20, implicit=True)
    data, options = (
        EvalData(data_of(model), limit=CHUNK_SIZE + 4),
        AISConfig(2, 5, init=init, leapfrog_steps=2),
    )
    eager = ais(model, data, options).per_example
    graphs = request.getfixturevalue("traced_graphs")
    again = ais(model, data, options).per_example
    assert len(graphs) == 4  # pilot and final run, for both sizes
    for name, value in eager.items():
        assert torch.equal(again[name], value), name


@pytest.mark.slow
def test_compiled_gradient_equals_the_eager_gradient(
    model: LatentModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_density_grad, "MIN_FLOP_TO_COMPILE", 0.0)
    annealer = Annealer(model, EvalData(data_of(model)), AISConfig(init="diagonal"))
    path = annealer.make_path(torch.randn(4, 5))(3, 10)
    u = path.sample_initial()
    torch.testing.assert_close(path.final_and_grad(u), value_and_grad(path.log_final, u))  # type: ignore[misc]
    assert [compiled is not None for compiled in annealer._final._compiled.values()] == [True]


@pytest.mark.parametrize("kind", ["branches", "changes", "constant"])
def test_densities_that_cannot_be_traced_stay_eager(kind: str, traced_graphs: list[GraphModule]) -> None:
    """A branch on a value, a density that changes with every call, and a value that tracing makes a constant."""
    calls = iter(range(100))

    def density(u: Tensor) -> Tensor:
        if kind == "branches" and float(u.detach().sum()) > 1e9:
            return u.sum(-1)
        hidden = float(u.detach().numpy().mean()) if kind == "constant" else 0.0
        return -u.square().sum(-1) + (next(calls) if kind == "changes" else hidden)

    grad_fn, u = LogDensityGrad(density), torch.randn(3, 2)
    grad = grad_fn(u, num_evals=10)[1]
    torch.testing.assert_close(grad, -2 * u)
    assert list(grad_fn._compiled.values()) == [None]
    assert len(traced_graphs) == (0 if kind == "branches" else 1)


def test_each_shape_and_dtype_is_compiled_separately(traced_graphs: list[GraphModule]) -> None:
    grad_fn = LogDensityGrad(lambda u, shift: -(u - shift).square().sum(-1))
    for u in (torch.randn(3, 2), torch.randn(3, 2).float(), torch.randn(2, 3).t(), torch.randn(4, 2)):
        shift = torch.ones_like(u)
        for _ in range(2):
            value, grad = grad_fn(u, shift, num_evals=1)
        torch.testing.assert_close(grad, -2 * (u - shift))
        assert value.dtype == u.dtype
    assert len(traced_graphs) == 4


def test_compilation_depends_on_the_flop_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A 3 × 2 by 2 × 2 product has 24 FLOP, and as many in the backward pass."""
    compiled: list[int] = []

    def compile_function(function: Callable[..., object], inputs: object) -> Callable[..., object]:
        compiled.append(1)
        return function

    monkeypatch.setattr(log_density_grad, "MIN_FLOP_TO_COMPILE", 48 * 100)
    monkeypatch.setattr(log_density_grad, "compile_function", compile_function)
    matrix = torch.eye(2)
    for num_evals, is_compiled in ((99, False), (100, True)):
        LogDensityGrad(lambda u: (u @ matrix).sum(-1))(torch.randn(3, 2), num_evals=num_evals)
        assert bool(compiled) == is_compiled


def test_short_annealing_is_not_compiled(
    traced_graphs: list[GraphModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_density_grad, "MIN_FLOP_TO_COMPILE", 1e12)
    LogDensityGrad(lambda u: -u.square().sum(-1))(torch.randn(3, 2), num_evals=100)
    assert not traced_graphs


def test_ais_equals_the_evidence_with_an_implicit_encoder() -> None:
    """From a normal fitted to samples of the exact posterior, weights are nearly equal; 3 standard errors."""
    model = toy_model(1.0, 10, 20, implicit=True)
    data = EvalData(data_of(model), limit=40)
    x = data.data.preprocessing.apply(data.data.test.raw(range(40)))
    estimate = ais(model, data, AISConfig(chains=8, temperatures=10))
    assert estimate.protocol["init"] == "full"
    differences = estimate.per_example["value"] - exact(model, x)
    assert differences.mean().abs().item() < 3 * differences.std().item() / math.sqrt(40) + 1e-3
    assert bool((estimate.per_example["ess"] > 7.5).all())
    with pytest.raises(NoDensityError):
        ais(model, data, AISConfig(chains=1, temperatures=1, init="encoder"))


def test_effective_sample_size_of_a_normal_proposal() -> None:
    """One step from β = 0 to 1 is importance sampling, whose effective sample size is known for normals.

    For p = N(0, 1) and f_0 = N(0, s²) in each of two coordinates E[w²] / E[w]² = (s² / √(2 s² − 1))²; with s² = 2
    that is 16/9 · ¾ … = (2/√3)² = 4/3: three quarters of the chains count. Over 200 images × 2,000 chains the
    relative error of a mean of w² is below 1 %; with equal densities every chain counts, to rounding.
    """
    images, chains = 200, 2000

    def normal(z: Tensor) -> Tensor:
        return torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)

    for scale, share, tolerance in ((1.0, 1.0, 1e-12), (math.sqrt(2), 0.75, 0.01)):
        path = path_to(normal, images * chains, scale)
        log_w, _ = anneal(path, path.sample_initial(), [0.0, 1.0], lambda beta: torch.empty(0), 1)
        log_w = log_w.reshape(chains, images)
        ess = torch.exp(2 * torch.logsumexp(log_w, 0) - torch.logsumexp(2 * log_w, 0))
        assert (ess / chains).mean().item() == pytest.approx(share, rel=tolerance)


@pytest.mark.parametrize(("d", "n"), SIZES)
def test_bdmc_bounds_enclose_the_exact_evidence(d: int, n: int) -> None:
    """Below and above the exact log p(x), within 3 standard errors, and no more than a tenth of a nat apart."""
    model = toy_model(1.5, d, n)
    data = EvalData(data_of(model), limit=30)
    result = bdmc(model, data, AISConfig(chains=16, temperatures=200))
    lower, upper, gap = (result.find(f"bdmc {side}") for side in ("lower", "upper", "gap"))
    _, x = generate(without_grad(model), 30, False, _first_seed())
    for side, sign in ((lower, 1), (upper, -1)):
        error = (side.per_example["value"] - exact(model, x)) * sign
        assert error.mean().item() <= 3 * error.std().item() / math.sqrt(30)
    assert gap.value == pytest.approx(upper.value - lower.value)
    assert -3 * gap.stderr < gap.value < 0.1
    assert not result.remarks[0].warning


def _first_seed() -> int:
    """Return the seed of the images generated for the first batch under seed 0."""
    from advae.random import mix_seeds

    return mix_seeds(0, 0, 2)


def test_large_bdmc_gap_has_a_warning(model: LatentModel) -> None:
    """With two temperatures from the prior to a narrow posterior, the bounds differ by nats."""
    narrow = toy_model(1.5, 10, 50)
    options = AISConfig(chains=2, temperatures=2, init="prior", leapfrog_steps=1)
    result = bdmc(narrow, EvalData(data_of(narrow), limit=20), options)
    assert result.find("bdmc gap").value > 1
    assert result.remarks[0].warning and "too low" in result.remarks[0].text
    assert result.remarks == [gap_remark(result.find("bdmc gap"))]


def test_generated_examples_come_from_the_model(model: LatentModel) -> None:
    """Their covariance is W Wᵀ + σ² I: over 40,000 images, within 5 % of its norm (its error is about 1 %)."""
    z, x = generate(model, 40_000, False, seed=1)
    W = weights(model)
    expected = W @ W.T + NOISE**2 * torch.eye(len(W))
    assert (torch.cov(x.T) - expected).norm().item() < 0.05 * expected.norm().item()
    residual = x - z @ W.T
    assert residual.std().item() == pytest.approx(NOISE, rel=0.02)


def test_path_gradients_equal_finite_differences() -> None:
    """Gradients of both ends; an error would only reduce efficiency, which no estimate shows."""
    torch.manual_seed(1)
    u, h = torch.randn(3, 2), 1e-5
    mean, factor = torch.randn(3, 2), torch.tril(torch.randn(3, 2, 2)) + 2 * torch.eye(2)

    def start(z: Tensor) -> Tensor:
        return -(z - 1).pow(4).sum(-1)

    for path in (
        AnnealingPath(mean, factor, bimodal),
        AnnealingPath(mean, factor.diagonal(dim1=1, dim2=2).abs(), bimodal),
        AnnealingPath(mean, factor, bimodal, start, lambda: mean),
    ):
        here = path.state(u, 0.3)
        torch.testing.assert_close(path.whiten(path.to_latents(u)), u)
        for i in range(2):
            nudge = h * torch.eye(2)[i]
            up, down = path.state(u + nudge, 0.3), path.state(u - nudge, 0.3)
            for value, grad in (("log_0", "grad_0"), ("log_1", "grad_1"), ("log_prob", "grad")):
                slope = (getattr(up, value) - getattr(down, value)) / (2 * h)
                torch.testing.assert_close(getattr(here, grad)[:, i], slope, rtol=1e-6, atol=1e-6)


def test_whitening_keeps_the_normalizer() -> None:
    """One step of importance sampling through a triangular L: the mean weight of a normalized target is 1."""
    chains = 20_000
    factor = torch.tensor([[1.5, 0.0], [0.7, 1.2]]).expand(chains, 2, 2)

    def normal(z: Tensor) -> Tensor:
        return torch.distributions.Normal(0.2, 0.8).log_prob(z).sum(-1)

    path = AnnealingPath(torch.zeros(chains, 2), factor, normal)
    log_w, _ = anneal(path, path.sample_initial(), [0.0, 1.0], lambda beta: torch.empty(0), 1)
    error = log_w.exp().std().item() / math.sqrt(chains)
    assert error < 0.02 and log_w.exp().mean().item() == pytest.approx(1, abs=4 * error)


def test_step_sizes_are_tuned_for_each_example() -> None:
    """A target ten times as narrow gets much smaller steps."""
    narrow = torch.tensor([0.1, 1.0]).repeat(4).unsqueeze(-1)

    def target(z: Tensor) -> Tensor:
        return -0.5 * (z / narrow).square().sum(-1)

    steps = tune_step_sizes(path_to(target, 8, 1.0), 2, "linear", 5)
    assert steps.shape == (99, 2)
    assert steps[-1, 0].item() < 0.5 * steps[-1, 1].item()


def make_path(model: LatentModel, x: Tensor, init: str) -> MakePath:
    annealer = Annealer(model, EvalData(data_of(model)), AISConfig(init=init))  # type: ignore[arg-type]
    return annealer.make_path(x)


def test_initial_densities_are_the_prior_or_the_moments_of_the_encoder(model: LatentModel) -> None:
    x = torch.randn(4, 5)
    prior, diagonal, full = (make_path(model, x, init)(2, 1) for init in ("prior", "diagonal", "full"))
    q = model.encode(x.repeat(2, 1))
    torch.testing.assert_close(diagonal.mean, q.mean)
    torch.testing.assert_close(diagonal.scale.square(), q.moments()[1] + 1e-6)
    assert torch.equal(full.scale, diagonal.scale)  # both are the same for a diagonal normal
    implicit = toy_model(1.0, implicit=True)
    torch.manual_seed(0)
    full = make_path(implicit, x, "full")(2, 1)
    torch.manual_seed(0)
    mean, cov = implicit.encode(x).moments(True)
    torch.testing.assert_close(full.mean, mean.repeat(2, 1))
    torch.testing.assert_close(full.scale @ full.scale.mT, cov.repeat(2, 1, 1) + 1e-6 * torch.eye(2))
    assert bool((prior.mean == 0).all()) and bool((prior.scale == 1).all())


def test_annealing_leaves_the_model_unchanged(model: LatentModel) -> None:
    """Annealing shares the weights without their gradients; the caller's model stays trainable."""
    model.train()
    copied = without_grad(model)
    assert [p.data_ptr() for p in copied.parameters()] == [p.data_ptr() for p in model.parameters()]
    assert not any(p.requires_grad for p in copied.parameters()) and not copied.training
    assert all(p.requires_grad for p in model.parameters()) and model.training


def test_invalid_options_raise(model: LatentModel) -> None:
    for options in ({"chains": 0}, {"temperatures": 0}, {"init": "priro"}, {"schedule": "sigmoidal"}):
        with pytest.raises(ConfigError):
            AISConfig(**options)  # type: ignore[arg-type]
