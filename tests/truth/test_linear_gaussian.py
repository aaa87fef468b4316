"""Gradients of the methods at their optimal critics against closed forms, on a linear-Gaussian model.

The critics are set by hand to the exact log ratio minus the method's known terms, with constant parameters.
Every case has three checks: the value of the loss, the model's gradients in θ and in φ, and that the critics'
losses are stationary there, which shows that P and Q are those of the ratio.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from advae.methods import Method
from advae.methods.ali import ALI
from advae.methods.asvae import ASVAE, ASVAEg, ASVAEr
from advae.methods.avb import AVB, VARIANCE_FLOOR
from advae.methods.bavae import BAVAE
from advae.methods.vae import VAE
from advae.model import LatentModel
from truth.linear_gaussian import Exact, Gauss, Truth, expected_log_normal, make
from truth.sampling import assert_close, assert_sharp, batch_means, gradient

pytestmark = pytest.mark.usefixtures("double")

SIZE = 2048  # of each of 64 batches
Function = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """A method, its optimal critics (residuals), and the closed form of its loss.

    Args:
        method: with its options.
        critics: the residual of each role.
        value: the loss's expectation.
        theta, phi: functions with the expected gradients in θ and φ; by default the value.
        correlated: whether the encoder has a full covariance and no density.
        kl_weight: as given to the method.
    """

    method: Method
    critics: Callable[[Truth], dict[str, Function]]
    value: Callable[[Truth], Tensor]
    theta: Callable[[Truth], Tensor] | None = None
    phi: Callable[[Truth], Tensor] | None = None
    correlated: bool = False
    kl_weight: float = 1.0

    def prepare(self, disturbed: bool) -> tuple[LatentModel, Gauss, Truth]:
        model, data = make(self.correlated)
        truth = Truth(model, data)
        critics = self.critics(truth.frozen())
        sizes = {"x": truth.n, "z": truth.d, "x,z": truth.n + truth.d}
        model.critics = nn.ModuleDict(
            {role: Exact(f, sizes[self.method.critics[role]], disturbed) for role, f in critics.items()}
        )
        return model, data, truth


# --- optimal critics ----------------------------------------------------------------------------------------


def avb_critic(contrast: str, known: bool) -> Callable[[Truth], dict[str, Function]]:
    """log q(z̄|x)/N(z̄; 0, I) as a function of the critic's inputs, minus −log N(z̄; 0, I) where that is known."""

    def critics(t: Truth) -> dict[str, Function]:
        if contrast == "prior":
            A, shift = torch.eye(t.d), 0.0
        elif contrast == "diagonal":
            A, shift = torch.diag((t.t2.diagonal() + VARIANCE_FLOOR).rsqrt()), 1.0
        else:
            A, shift = torch.linalg.inv(torch.linalg.cholesky(t.t2 + VARIANCE_FLOOR * torch.eye(t.d))), 1.0
        spread = Gauss(torch.zeros(t.d), A @ t.t2 @ A.T)

        def residual(x: Tensor, seen: Tensor) -> Tensor:
            log_q = spread.log_prob(seen - (1 - shift) * (x @ t.V.T + t.c))
            return log_q if known else log_q - t.prior.log_prob(seen)

        return {"critic": residual}

    return critics


def f1(known: bool) -> Callable[[Truth], dict[str, Function]]:
    """Lemma 1: log q(x, z) − log p(x)p(z), minus log q(z|x) − log p(z) where these are known."""

    def critics(t: Truth) -> dict[str, Function]:
        def residual(x: Tensor, z: Tensor) -> Tensor:
            out = t.data.log_prob(x) - t.p_x.log_prob(x)
            return out if known else out + t.log_q(z, x) - t.prior.log_prob(z)

        return {"f1": residual}

    return critics


def f2(known: bool) -> Callable[[Truth], dict[str, Function]]:
    """Lemma 1: log p(x, z) − log q(x)q(z), minus log p(x|z) where it is known."""

    def critics(t: Truth) -> dict[str, Function]:
        def residual(x: Tensor, z: Tensor) -> Tensor:
            out = t.prior.log_prob(z) - t.data.log_prob(x) - t.q_z.log_prob(z)
            return out if known else out + t.log_p(x, z)

        return {"f2": residual}

    return critics


def marginals(spread: float = 0.0) -> Callable[[Truth], dict[str, Function]]:
    """log p_θ(x) − log q(x), both with added noise if it is spread, and log p(z) − log q(z)."""

    def critics(t: Truth) -> dict[str, Function]:
        p_x, q_x = seen_marginals(t, spread)
        return {
            "d_x": lambda x, _: p_x.log_prob(x) - q_x.log_prob(x),
            "d_z": lambda _, z: t.prior.log_prob(z) - t.q_z.log_prob(z),
        }

    return critics


def seen_marginals(t: Truth, spread: float) -> tuple[Gauss, Gauss]:
    """What D_x sees: samples of the decoder and data, or decoder means and data with added noise."""
    if not spread:
        return t.p_x, t.data
    noise = spread**2 * torch.eye(t.n)
    return Gauss(t.b, t.W @ t.W.T + noise), Gauss(t.data.mean, t.data.cov + noise)


def only(
    role: str, critics: Callable[[Truth], dict[str, Function]]
) -> Callable[[Truth], dict[str, Function]]:
    """One of several critics."""
    return lambda t: {role: critics(t)[role]}


def bavae_critics(known: bool) -> Callable[[Truth], dict[str, Function]]:
    """(8) as T = 1 − D; and 1 + log q(x, z)/(q(z) p(x|z)) for the pairs."""

    def critics(t: Truth) -> dict[str, Function]:
        def prior(x: Tensor, z: Tensor) -> Tensor:
            return 1 + t.log_q(z, x) - (0.0 if known else t.prior.log_prob(z))

        def pairs(x: Tensor, z: Tensor) -> Tensor:
            return 1 + t.q.log_prob(torch.cat([x, z], 1)) - t.q_z.log_prob(z) - t.log_p(x, z)

        return {"prior": prior, "pairs": pairs}

    return critics


def none(t: Truth) -> dict[str, Function]:
    return {}


# --- closed forms of the losses ------------------------------------------------------------------------------


def negative_elbo(t: Truth) -> Tensor:
    return -t.elbo()


def asvae_r_value(t: Truth) -> Tensor:
    """E_q[f₁* − log p(x|z)] = KL(data ‖ p_θ(x)) − ELBO; its gradient at fixed f₁ is the ELBO's alone."""
    return t.data.kl(t.p_x) - t.elbo()


def asvae_g_value(t: Truth) -> Tensor:
    """E_p[f₂* − log q(z|x)] with E_p[f₂*] = KL(p(x, z) ‖ q(x) q(z))."""
    return t.p.kl(independent(t.data, t.q_z)) - t.expected_log_q(t.p)


def joint_kl(t: Truth) -> Tensor:
    """KL(p(x, z) ‖ q(x, z)): the θ-gradient of AS-VAE-g is that of this KL."""
    return t.p.kl(t.q)


def sleep(t: Truth) -> Tensor:
    """−E_p log q(z|x) with p held fixed: the φ-gradient of AS-VAE-g."""
    return -t.expected_log_q(t.frozen().p)


def marginal_g_value(t: Truth, spread: float = 0.0, weight: float = 1.0) -> Tensor:
    """E_p[f₂ − log q(z|x)] of marginal critics with the bias of one importance weight, KL(q(z|x) ‖ p(z|x)) at x ~ p."""
    p_x, q_x = seen_marginals(t, spread)
    posterior = Gauss(t.p.mean, t.p.cov).kl(independent(t.p_x, t.prior))  # E_p[log p(x|z) − log p_θ(x)]
    evidence_bias = with_data(t, t.p_x).q.kl(t.p)
    f2 = posterior + evidence_bias + weight * p_x.kl(q_x) + t.prior.kl(t.q_z)
    return f2 - t.expected_log_q(t.p)


def marginal_theta(t: Truth, spread: float = 0.0, weight: float = 1.0) -> Tensor:
    """A function with the θ-gradient of AS-VAE-g with marginal critics and one importance weight.

    KL(p(x, z) ‖ q(x, z)) with the KL of the x that D_x sees in place of that of x, and log p₀(x|z'), z' ~ q(z|x), in
    place of log p₀(x): p₀ and z' are constants, and x = Wz + b + Lξ moves.
    """
    p_x, q_x = seen_marginals(t, spread)
    frozen = t.frozen()
    L, L0 = t.s2.diagonal().sqrt().diag(), frozen.s2.diagonal().sqrt().diag()
    WV = frozen.W @ frozen.V
    parts = t.W - WV @ frozen.W, L - WV @ L0
    cov = sum((part @ part.T for part in parts), frozen.W @ frozen.t2 @ frozen.W.T)
    estimated = expected_log_normal(
        Gauss(t.b - frozen.b - frozen.W @ (frozen.V @ frozen.b + frozen.c), cov), frozen.s2
    )
    exact = expected_log_normal(Gauss(t.p_x.mean - frozen.p_x.mean, t.p_x.cov), frozen.p_x.cov)
    return joint_kl(t) - t.p_x.kl(t.data) + weight * p_x.kl(q_x) + exact - estimated


def with_data(t: Truth, data: Gauss) -> Truth:
    """The same model with other data."""
    copy = object.__new__(Truth)
    copy.__dict__ = t.__dict__ | {"data": data}
    return copy


def independent(a: Gauss, b: Gauss) -> Gauss:
    """The joint distribution of independent vectors."""
    return Gauss(torch.cat([a.mean, b.mean]), torch.block_diag(a.cov, b.cov))


def bavae_value(t: Truth) -> Tensor:
    """−E_q log p(x|z) + I_q(x; z) − H(x) + KL(q(z|x) ‖ p(z)), as in the docstring of methods/bavae.py."""
    return -t.expected_log_p() + t.information() - t.data.entropy() + t.kl()


def bavae_theta(t: Truth) -> Tensor:
    """The reconstruction term alone."""
    return -t.expected_log_p()


CASES = {
    "vae closed": Case(VAE(), none, negative_elbo),
    "vae monte-carlo": Case(VAE(kl="monte-carlo"), none, negative_elbo),
    "vae beta": Case(VAE(beta=1.7), none, lambda t: -t.expected_log_p() + 1.7 * t.kl()),
    "vae warm-up": Case(VAE(), none, lambda t: -t.expected_log_p() + 0.3 * t.kl(), kl_weight=0.3),
    **{
        f"avb {contrast}, known {known}": Case(
            AVB(contrast=contrast, known=known),  # type: ignore[arg-type]
            avb_critic(contrast, known == "densities"),
            negative_elbo,
            correlated=True,
        )
        for contrast in ("prior", "diagonal", "full")
        for known in ("densities", "none")
    },
    "avb normal encoder": Case(AVB(contrast="full"), avb_critic("full", True), negative_elbo),
    "avb warm-up": Case(
        AVB(contrast="diagonal"),
        avb_critic("diagonal", True),
        lambda t: -t.expected_log_p() + 0.3 * t.kl(),
        correlated=True,
        kl_weight=0.3,
    ),
    "asvae-r, known densities": Case(
        ASVAEr(known="densities"), f1(True), asvae_r_value, negative_elbo, negative_elbo
    ),
    "asvae-r, known none": Case(ASVAEr(known="none"), f1(False), asvae_r_value, negative_elbo, negative_elbo),
    "asvae-g, known densities": Case(ASVAEg(known="densities"), f2(True), asvae_g_value, joint_kl, sleep),
    "asvae-g, known none": Case(ASVAEg(known="none"), f2(False), asvae_g_value, joint_kl, sleep),
    "asvae, known densities": Case(
        ASVAE(known="densities"),
        lambda t: f1(True)(t) | f2(True)(t),
        lambda t: asvae_r_value(t) + asvae_g_value(t),
        lambda t: joint_kl(t) - t.elbo(),
        lambda t: sleep(t) - t.elbo(),
    ),
    "asvae, known f1": Case(
        ASVAE(known="f1"),
        lambda t: f1(True)(t) | f2(False)(t),
        lambda t: asvae_r_value(t) + asvae_g_value(t),
        lambda t: joint_kl(t) - t.elbo(),
        lambda t: sleep(t) - t.elbo(),
    ),
    "asvae-r, known marginals": Case(
        ASVAEr(known="marginals"), only("d_x", marginals()), asvae_r_value, negative_elbo, negative_elbo
    ),
    "asvae-g, known marginals": Case(
        ASVAEg(known="marginals", importance_samples=1), marginals(), marginal_g_value, marginal_theta, sleep
    ),
    "asvae, known marginals": Case(
        ASVAE(known="marginals", importance_samples=1),
        marginals(),
        lambda t: asvae_r_value(t) + marginal_g_value(t),
        lambda t: marginal_theta(t) - t.elbo(),
        lambda t: sleep(t) - t.elbo(),
    ),
    "asvae-g, spread marginals": Case(
        ASVAEg(known="marginals", importance_samples=1, spread_std=0.5, critic_weight=3),
        marginals(0.5),
        lambda t: marginal_g_value(t, 0.5, 3),
        lambda t: marginal_theta(t, 0.5, 3),
        sleep,
    ),
    # A ceiling of 50 nats has no effect here: the smooth clamp is the identity to 1e-9.
    "bavae, known none": Case(BAVAE(ceiling=50), bavae_critics(False), bavae_value, bavae_theta, bavae_value),
    "bavae, known densities": Case(
        BAVAE(known="densities", ceiling=50), bavae_critics(True), bavae_value, bavae_theta, bavae_value
    ),
}

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@every_case
def test_value_and_gradients_at_the_optimal_critics(case: Case) -> None:
    model, data, truth = case.prepare(disturbed=False)
    theta, phi = list(model.decoder.parameters()), list(model.encoder.parameters())

    def sample() -> Tensor:
        loss = case.method.losses(model, data.rsample(SIZE), kl_weight=case.kl_weight)["model"].mean()
        return torch.cat([loss[None], gradient(loss, theta), gradient(loss, phi)])

    exact = {
        "value": case.value(truth)[None],
        "θ": gradient((case.theta or case.value)(truth), theta),
        "φ": gradient((case.phi or case.value)(truth), phi),
    }
    mean, error = batch_means(sample)
    sizes = [len(part) for part in exact.values()]
    for (name, right), m, e in zip(exact.items(), mean.split(sizes), error.split(sizes), strict=True):
        assert_close((m, e), right.detach(), name)
        assert_sharp((m, e), right, name)


@pytest.mark.parametrize(
    "case",
    [case for case in CASES.values() if case.method.adversaries],
    ids=[name for name, case in CASES.items() if case.method.adversaries],
)
def test_critics_are_stationary_at_their_optimum(case: Case) -> None:
    """The expected gradient of a critic's loss vanishes in every direction of degree two or less.

    It vanishes only if the critic's pairs are from the P and the Q of its ratio: with dependent instead of
    independent pairs, P and Q exchanged, or a known term missing, some direction has a slope.
    """
    model, data, _ = case.prepare(disturbed=True)
    alphas = [critic.alpha for critic in model.critics.values()]
    players = case.method.adversaries

    def sample() -> Tensor:
        losses = case.method.losses(model, data.rsample(SIZE), players)
        return gradient(sum(losses[player].mean() for player in players), alphas)

    estimate = batch_means(sample)
    assert_close(estimate, torch.zeros_like(estimate[0]), "slope")


def test_adversarial_estimate_of_the_kl_includes_all_constants() -> None:
    """AVB's diagnostic ``kl`` is the KL with each contrast (algorithm 2 prints only what has a gradient)."""
    for contrast in ("prior", "diagonal", "full"):
        case = CASES[f"avb {contrast}, known densities"]
        model, data, truth = case.prepare(disturbed=False)
        estimate = batch_means(
            lambda m=model, d=data, c=case: c.method.losses(m, d.rsample(SIZE)).diagnostics["kl"].mean()[None]
        )
        assert_close(estimate, truth.kl()[None].detach(), contrast)


def test_diagnostics_of_asvae_have_their_closed_forms() -> None:
    case = CASES["asvae, known densities"]
    model, data, truth = case.prepare(disturbed=False)
    keys = ("reconstruction", "z_reconstruction", "kl")

    def sample() -> Tensor:
        diagnostics = case.method.losses(model, data.rsample(SIZE)).diagnostics
        return torch.stack([diagnostics[key].mean() for key in keys])

    exact = torch.stack([-truth.expected_log_p(), -truth.expected_log_q(truth.p), truth.kl()])
    assert_close(batch_means(sample), exact.detach(), "diagnostics")


# --- known terms --------------------------------------------------------------------------------------------

KNOWN: dict[str, tuple[Method, Method, Callable[[Truth], dict[str, Function]], bool]] = {
    "avb": (
        AVB(),
        AVB(known="none"),
        lambda t: {"critic": lambda x, z: -t.prior.log_prob(z)},
        True,
    ),
    "asvae": (
        ASVAE(known="densities"),
        ASVAE(known="none"),
        lambda t: {
            "f1": lambda x, z: t.log_q(z, x) - t.prior.log_prob(z),
            "f2": lambda x, z: t.log_p(x, z),
        },
        False,
    ),
    "bavae": (
        BAVAE(known="densities", ceiling=50),
        BAVAE(known="none", ceiling=50),
        lambda t: {"prior": lambda x, z: -t.prior.log_prob(z), "pairs": zero},
        True,
    ),
    "ali": (
        ALI(known="densities"),
        ALI(known="none"),
        lambda t: {"critic": lambda x, z: t.log_q(z, x) - t.prior.log_prob(z) - t.log_p(x, z)},
        False,
    ),
}


def zero(x: Tensor, z: Tensor) -> Tensor:
    return torch.zeros(len(x))


@pytest.mark.parametrize(("with_known", "plain", "terms", "correlated"), KNOWN.values(), ids=KNOWN)
def test_known_terms_equal_a_fixed_critic_of_these_terms(
    with_known: Method, plain: Method, terms: Callable[[Truth], dict[str, Function]], correlated: bool
) -> None:
    """A zero critic with the known terms, and a plain critic that *is* these terms, give the same losses and gradients.

    Sample by sample, not only on average: the parameters of a known term are constants, and gradients flow through
    both inputs of the critic, x and z. (5e-6: critics are evaluated in single precision.)
    """
    model, data = make(correlated)
    functions = terms(Truth(model, data).frozen())
    x, parameters = data.rsample(64), [*model.encoder.parameters(), *model.decoder.parameters()]
    results = []
    for method, critics in ((with_known, dict.fromkeys(functions, zero)), (plain, functions)):
        model.critics = nn.ModuleDict({role: Exact(f, 4) for role, f in critics.items()})
        torch.manual_seed(1)
        losses = method.losses(model, x)
        values = {player: loss.detach().double() for player, loss in losses.items()}
        results.append((values, gradient(losses["model"].mean(), parameters)))
    for player in results[0][0]:
        torch.testing.assert_close(results[0][0][player], results[1][0][player], atol=5e-6, rtol=5e-6)
    torch.testing.assert_close(results[0][1], results[1][1], atol=5e-6, rtol=5e-6)


# --- ALI: no closed form, but in two dimensions a grid is exact ---------------------------------------------


def ali_residual(t: Truth, known: bool) -> Function:
    """log q(x, z) − log p(x, z), minus the densities of encoder, prior and decoder where they are known."""

    def residual(x: Tensor, z: Tensor) -> Tensor:
        if known:
            return t.data.log_prob(x)
        u = torch.cat([x, z], 1)
        return t.q.log_prob(u) - t.p.log_prob(u)

    return residual


@pytest.mark.parametrize("known", ["densities", "none"])
@pytest.mark.parametrize("generator", ["minimax", "non-saturating"])
def test_ali_at_its_optimal_critic(generator: str, known: str) -> None:
    """∫ ∇q a(f*) + ∇p b(f*) over a grid of ±8 standard deviations; the trapezoidal rule is exact to rounding there."""
    method = ALI(generator=generator, known=known)  # type: ignore[arg-type]
    model, data = make(n=1)
    truth = Truth(model, data)
    model.critics = nn.ModuleDict({"critic": Exact(ali_residual(truth.frozen(), known == "densities"), 2)})
    theta, phi = list(model.decoder.parameters()), list(model.encoder.parameters())

    axis = torch.linspace(-9, 9, 361)
    grid = torch.cartesian_prod(axis, axis)
    area = (axis[1] - axis[0]) ** 2
    q, p = truth.q.log_prob(grid).exp() * area, truth.p.log_prob(grid).exp() * area
    assert abs(q.sum() - 1) < 1e-9 and abs(p.sum() - 1) < 1e-9
    f = (truth.q.log_prob(grid) - truth.p.log_prob(grid)).detach()
    softplus = nn.functional.softplus
    saturating = -(q * softplus(-f) + p * softplus(f)).sum()
    expected = saturating if generator == "minimax" else (q * softplus(f) + p * softplus(-f)).sum()

    def sample() -> Tensor:
        loss = method.losses(model, data.rsample(SIZE))["model"].mean()
        return torch.cat([loss[None], gradient(loss, theta + phi)])

    exact = torch.cat([expected[None], gradient(expected, theta + phi)]).detach()
    estimate = batch_means(sample)
    assert_close(estimate, exact, "ali")
    assert_sharp((estimate[0][1:], estimate[1][1:]), exact[1:], "ali")


@pytest.mark.parametrize("known", ["densities", "none"])
def test_ali_critic_is_stationary(known: str) -> None:
    model, data = make()
    frozen = Truth(model, data).frozen()
    model.critics = nn.ModuleDict(
        {"critic": Exact(ali_residual(frozen, known == "densities"), 4, disturbed=True)}
    )
    method = ALI(known=known)  # type: ignore[arg-type]

    def sample() -> Tensor:
        loss = method.losses(model, data.rsample(SIZE))["critic"].mean()
        return gradient(loss, [model.critics["critic"].alpha])

    estimate = batch_means(sample)
    assert_close(estimate, torch.zeros_like(estimate[0]), "slope")


# --- trap 8 -------------------------------------------------------------------------------------------------


class Recorder(nn.Module):
    """A critic that records its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        self.inputs.append((x.detach(), z.detach()))
        return torch.zeros(len(x))


@pytest.mark.parametrize("batch", [2, 3, 7])
def test_pairs_of_q_are_independent(batch: int) -> None:
    """The first pairs of f₁ and f₂ are matched, x with its own latent code; the second never are.

    Encoder and decoder are the identity with a noise of 1e-3, so a pair is matched if and only if x ≈ z; two
    independent standard normals of length 2 are as close with probability 1e-5.
    """
    model, _ = make()
    for net in (model.encoder, model.decoder):
        net.weight.data, net.bias.data = torch.eye(2), torch.zeros(2)
        net.log_scale.data.fill_(-6.9)
    model.critics = nn.ModuleDict({"f1": Recorder(), "f2": Recorder()})
    ASVAE().losses(model, torch.randn(batch, 2))
    for critic in model.critics.values():
        matched = [[bool(ok) for ok in (x - z).abs().amax(1) < 0.01] for x, z in critic.inputs]
        assert matched == [[True] * batch, [False] * batch]


def test_batch_of_one_is_refused() -> None:
    """It has no independent pairs: each example would be paired with itself."""
    from advae.errors import AdvaeError

    case = CASES["asvae, known densities"]
    model, data, _ = case.prepare(disturbed=False)
    with pytest.raises(AdvaeError):
        case.method.losses(model, data.rsample(1))
