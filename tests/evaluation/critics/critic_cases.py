"""Models with known critics, log ratios and KLs, and examples for them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from advae.data import Dataset, Split, make_preprocessing
from advae.distributions import Distribution
from advae.distributions.implicit import ImplicitSampler
from advae.distributions.normal import Normal
from advae.evaluation.estimate import Criterion, Estimate, EvaluationResult, Remark
from advae.evaluation.eval_data import EvalData
from advae.methods import Method
from advae.methods.ali import ALI
from advae.methods.asvae import ASVAE
from advae.methods.avb import AVB, VARIANCE_FLOOR
from advae.methods.bavae import BAVAE
from advae.model import LatentModel
from truth.linear_gaussian import Exact, Gauss, Truth, make
from truth.test_linear_gaussian import ali_residual, avb_critic, bavae_critics, f1, f2

SIGMAS = 5.0  # standard errors; a file of 100 comparisons then fails by chance with probability 6e-5
IMAGES = 2000
Function = Callable[[Tensor, Tensor], Tensor]


def data_of(x: Tensor, train: Tensor) -> Dataset:
    """Real vectors without preprocessing."""
    test, learned = Split("test", x), Split("train", train)
    preprocessing = make_preprocessing("standardize", test)
    preprocessing.mean, preprocessing.std = torch.zeros(x.shape[1]), torch.ones(x.shape[1])  # type: ignore[attr-defined]
    return Dataset("toy", "toy", tuple(x.shape[1:]), learned, test, test, preprocessing, "0")


def with_critics(model: LatentModel, method: Method, functions: dict[str, Function]) -> LatentModel:
    model.critics = nn.ModuleDict({role: Exact(f, 4) for role, f in functions.items()})
    model.info["method"] = method.spec()
    return model.eval()


def assert_is(estimate: Estimate, exact: float, rounding: float = 1e-5) -> None:
    """Within SIGMAS standard errors; ``rounding`` for critics in float32 where nothing else is random."""
    assert abs(estimate.value - exact) <= SIGMAS * estimate.stderr + rounding, (estimate, exact)


def only(result: EvaluationResult) -> Remark:
    """Return the only remark of a result."""
    assert len(result.remarks) == 1
    return result.remarks[0]


def pairs_kl(t: Truth, role: str) -> Tensor:
    """KL(P‖Q) of each contrast."""
    zero = torch.zeros(t.n, t.d)
    apart = torch.cat([torch.cat([t.data.cov, zero], 1), torch.cat([zero.T, t.q_z.cov], 1)])
    return {
        "prior": t.kl(),
        "f1": t.kl() + t.data.kl(t.p_x),
        "f2": t.p.kl(Gauss(torch.cat([t.data.mean, t.q_z.mean]), apart)),
        "pairs": t.q_z.entropy() - t.q.entropy() - t.expected_log_p(),
        "joint": t.q.kl(t.p),
    }[role]


def diagonal_kl(t: Truth) -> Tensor:
    """KL(q(z̄|x) ‖ N(0, I)) for z̄ standardized by its variances plus AVB's small constant."""
    A = torch.diag((t.t2.diagonal() + VARIANCE_FLOOR).rsqrt())
    return Gauss(torch.zeros(t.d), A @ t.t2 @ A.T).kl(t.prior)


CASES: dict[
    str, tuple[Method, Callable[[Truth], dict[str, Function]], dict[str, Callable[[Truth], Tensor]], bool]
] = {
    "avb prior": (
        AVB(known="none"),
        avb_critic("prior", False),
        {"critic": lambda t: pairs_kl(t, "prior")},
        True,
    ),
    "avb diagonal": (
        AVB(contrast="diagonal"),
        avb_critic("diagonal", True),
        {"critic": diagonal_kl},
        True,
    ),
    "avb density": (
        AVB(),
        avb_critic("prior", True),
        {"critic": lambda t: pairs_kl(t, "prior")},
        False,
    ),
    "asvae": (
        ASVAE(),
        lambda t: f1(True)(t) | f2(False)(t),
        {"f1": lambda t: pairs_kl(t, "f1"), "f2": lambda t: pairs_kl(t, "f2")},
        False,
    ),
    "bavae": (
        BAVAE(ceiling=50),
        bavae_critics(False),
        {"prior": lambda t: pairs_kl(t, "prior"), "pairs": lambda t: pairs_kl(t, "pairs")},
        True,
    ),
    "ali": (
        ALI(known="none"),
        lambda t: {"critic": ali_residual(t, False)},
        {"critic": lambda t: pairs_kl(t, "joint")},
        False,
    ),
}


def optimal(
    name: str, change: Callable[[Function], Function] = lambda f: f
) -> tuple[LatentModel, Truth, EvalData]:
    """A method's model with its optimal critics, after ``change``, its closed forms, and examples."""
    method, functions, _, correlated = CASES[name]
    model, data = make(correlated)
    truth = Truth(model, data).frozen()
    with_critics(model, method, {role: change(f) for role, f in functions(truth).items()})
    x = data.rsample(2 * IMAGES)
    return model, truth, EvalData(data_of(x[:IMAGES], x[IMAGES:]))


class Shifted(nn.Module):
    """``N(m(x), I)`` without a density."""

    def __init__(self, m: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.m, self.weight = m, nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Distribution:
        mean = self.m(x)
        return ImplicitSampler(lambda n: mean + torch.randn(n, *mean.shape), len(x), mean.shape[1:])


class Plain(nn.Module):
    """``N(z, I)`` in the first coordinates of x."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n

    def forward(self, z: Tensor) -> Distribution:
        return Normal(nn.functional.pad(z, (0, self.n - z.shape[1])), torch.zeros(1))


D = 2


def shifted(
    m: Callable[[Tensor], Tensor], n: int = D, change: Callable[[Tensor], Tensor] = lambda T: T
) -> LatentModel:
    """AVB contrasted with the prior; the log ratio is m·z − |m|²/2, after ``change``."""

    def T(x: Tensor, z: Tensor) -> Tensor:
        return change((m(x) * z).sum(1) - 0.5 * m(x).square().sum(1))

    model = LatentModel(Shifted(m), Plain(n), x_shape=(n,), latent_dim=D)
    return with_critics(model, AVB(known="none"), {"critic": T})


def images(n: int = D) -> EvalData:
    x = torch.randn(2 * IMAGES, n)
    return EvalData(data_of(x[:IMAGES], x[IMAGES:]))


def exact_posterior(model: LatentModel) -> None:
    """A decoder without rotation, s = 0.4, and the encoder that inverts it."""
    w, s = torch.tensor([1.2, 0.8]), 0.4
    variance = 1 / (1 + w**2 / s**2)
    for net, weight, scale in (
        (model.decoder, w, torch.full((2,), s)),
        (model.encoder, variance * w / s**2, variance.sqrt()),
    ):
        net.weight.data, net.bias.data, net.log_scale.data = torch.diag(weight), torch.zeros(2), scale.log()


def criterion(remark: Remark, name: str) -> Criterion:
    """The row of a verdict's table."""
    (row,) = [row for row in remark.criteria if row.name == name]
    return row


def failed(remark: Remark) -> set[str]:
    """The criteria that a critic does not meet."""
    return {row.name for row in remark.criteria if not row.passed}


def calibrated_pairs(sets: int, n: int, samples: int = 1) -> tuple[Tensor, Tensor]:
    """Log ratios of N(m, 1) to N(0, 1) at samples of both, one m per example; ``[sets, n, samples]``."""
    m = 0.5 + 2 * torch.rand(sets, n, 1)
    noise = torch.randn(2, sets, n, samples)
    return 0.5 * m**2 + m * noise[0], -0.5 * m**2 + m * noise[1]
