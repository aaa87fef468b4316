"""Training of several independent fits of q to one target, in one batch.

    locate   LOCATE_STEPS        Gaussian variational inference fits the preconditioner, under a power of the target
    fit      options.steps       q and critic are trained while the power rises to 1
    settle   a fraction of that  q is final; the critic is trained on, against the normals of the final q

The random numbers of a step are a function of (seed, step), so that a resumed fit continues exactly. Families with a
density have no critic and no last phase.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from advae.devices import default_torch_modes
from advae.errors import NotFiniteError
from advae.inference.adaptive_contrast import CriticTrainer, strip_prefix
from advae.inference.ensemble import ModuleEnsemble
from advae.inference.families import make_family
from advae.inference.infer_options import InferOptions
from advae.inference.preconditioner import (
    AffineMap,
    check_bounded,
    check_proper,
    diagonal_approximation,
    log_prob_in_u,
    normal_log_prob,
    step_towards,
)
from advae.inference.target import Target, describe_sample
from advae.random import mix_seeds, reseed
from advae.training.optimizers import PlayerOptimizer, compute_lr_scale
from advae.training.train_options import TrainOptions

LOCATE_STEPS = 150
FIRST_LOCATE_FRACTION, LAST_LOCATE_FRACTION = (
    0.5,
    0.05,
)  # of a natural gradient step: first fast, then precise
INITIAL_SD = 1.0  # of the fits' starting points
SAMPLES_PER_DIM = 4  # at least, for a regression on every coordinate or a full covariance
NORMAL_LR = 0.02  # for the normal families: no networks, and no gradient noise at a normal target
POWER_RISE_FRACTION = 0.4  # of the fit phase, until the power is 1
EMA_DECAY = 0.995  # of q's weights
CONTRAST_SAMPLES = 20_000  # of the final q: the mean of its normal is off by 0.7 % of a standard deviation
SETTLE_FRACTION = 0.2
FINAL_CRITIC_LR_SCALE = 0.5  # of the fit phase: the critic must follow q to the end
ADVERSARIAL_BETA1 = 0.5  # Adam's β₁ of q and critic (as in the authors' code): momentum makes them oscillate
GUARD_INTERVAL = 50  # steps between checks for non-finite values on a GPU, where a check waits for the device

Phase = Literal["locate", "fit", "settle"]


class VariationalFit:
    """Fits in progress.

    Attributes:
        affine: the preconditioner.
        q: the networks of the family; ``ema_weights`` is the average of their weights, which defines the posterior.
        critic_trainer: the critics; None for families with a density.
        step: number of finished steps.
        metrics: of the last step, ``[F]`` by name.
    """

    def __init__(self, target: Target, options: InferOptions, seed: int) -> None:
        self.target, self.options, self.seed, self.step = target, options, seed, 0
        d, fits, placement = target.space.dim, options.fits, (target.device, target.dtype)
        reseed(mix_seeds(seed, 0), target.device)
        starts = INITIAL_SD * torch.randn(fits, d, dtype=torch.float32).to(*placement)
        self.affine = AffineMap.translation(starts)
        nonfinite_flag = torch.zeros((), dtype=torch.float32, device=target.device)
        train_options = self._train_options
        self.critic_trainer: CriticTrainer | None = None
        # For the networks only: the log joint may rely on the caller's default dtype.
        with default_torch_modes():
            self.q = ModuleEnsemble(make_family(options, d), fits).to(*placement)
            if options.has_critic:
                self.critic_trainer = CriticTrainer(target, options, train_options, nonfinite_flag)
        self.player = PlayerOptimizer("model", self.q.parameters(), train_options, nonfinite_flag)
        self.ema_weights = {name: weight.detach().clone() for name, weight in self.q.weights.items()}
        self.settle_steps = max(1, int(SETTLE_FRACTION * options.steps)) if options.has_critic else 0
        self.metrics: dict[str, Tensor] = {}

    @property
    def total_steps(self) -> int:
        """Steps of all phases."""
        return LOCATE_STEPS + self.options.steps + self.settle_steps

    @property
    def samples_per_step(self) -> int:
        """Samples per fit and step: the option, or as many as a full covariance needs."""
        full = self.critic_trainer is not None and self.critic_trainer.full_covariance
        return max(self.options.samples_per_step, SAMPLES_PER_DIM * self.target.space.dim if full else 0)

    @property
    def phase(self) -> Phase:
        """Phase of the next step."""
        if self.step < LOCATE_STEPS:
            return "locate"
        return "fit" if self.step < LOCATE_STEPS + self.options.steps else "settle"

    def advance(self) -> None:
        """Make one step."""
        reseed(mix_seeds(self.seed, 1, self.step), self.target.device)
        {"locate": self._locate, "fit": self._fit, "settle": self._settle}[self.phase]()
        self.step += 1
        if self.step == LOCATE_STEPS + self.options.steps:
            self._finalize_q()

    def _locate(self) -> None:
        decay = LAST_LOCATE_FRACTION / FIRST_LOCATE_FRACTION
        fraction = FIRST_LOCATE_FRACTION * decay ** (self.step / LOCATE_STEPS)
        fits, d = self.affine.mean.shape
        n = max(self.options.samples_per_step, SAMPLES_PER_DIM * d)
        u = torch.randn(fits, n, d, dtype=torch.float32).to(self.affine.mean)
        u.requires_grad_()
        log_p = log_prob_in_u(self.target, self.affine, u, self.options.initial_power)
        self._check_finite(log_p, u)
        (grad,) = torch.autograd.grad(log_p.sum(), u)
        self.affine = step_towards(self.affine, grad, u.detach(), fraction)
        self.metrics = {"elbo": (log_p - normal_log_prob(u, log_p.new_zeros(()))).mean(1).detach()}
        if self.step + 1 == LOCATE_STEPS:
            check_proper(self.target, self.affine)
            if self.q.template.diagonal:
                self.affine = diagonal_approximation(self.affine)

    def _fit(self) -> None:
        step = self.step - LOCATE_STEPS
        progress = min(1.0, step / (POWER_RISE_FRACTION * self.options.steps))
        power = self.options.initial_power + (1 - self.options.initial_power) * progress
        lr_scale = compute_lr_scale(self._train_options, step)
        if self.critic_trainer is None:
            u, log_q = self.q(n=self.options.samples_per_step)
            self._update_q(log_q - log_prob_in_u(self.target, self.affine, u, power), u, lr_scale)
        else:
            for i in range(self.options.critic_steps):
                update_q = i == self.options.critic_steps - 1
                self._adversarial_step(self.critic_trainer, power, lr_scale, update_q=update_q)
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        weights = self.q.detached_weights()
        torch._foreach_lerp_(list(self.ema_weights.values()), list(weights.values()), 1 - decay)

    def _adversarial_step(
        self, trainer: CriticTrainer, power: float, lr_scale: float, *, update_q: bool
    ) -> None:
        """Update the critics, and q too if ``update_q``: from the same samples, q first, with the critics as before."""
        with torch.set_grad_enabled(update_q):
            (u,) = self.q(n=self.samples_per_step)
            r = trainer.batch_contrast(u)
            whitened, log_r = r.whiten(u)
            log_p = log_prob_in_u(self.target, self.affine, u, power)
            if update_q:
                trainer.track_offset(log_p, log_r, first=self.step == LOCATE_STEPS)
            known = trainer.known_log_ratio(log_p, log_r)
        if update_q:
            self._update_q(trainer.log_ratio_fixed(known, whitened) + log_r - log_p, u, lr_scale)
        contrast_samples = trainer.sample_contrast(self.affine, r, power, self.samples_per_step)
        critic_lr_scale = FINAL_CRITIC_LR_SCALE + (1 - FINAL_CRITIC_LR_SCALE) * lr_scale
        trainer.update(whitened.detach(), known.detach(), *contrast_samples, critic_lr_scale)
        self.metrics |= trainer.diagnostics

    def _settle(self) -> None:
        trainer = self.critic_trainer
        assert trainer is not None and trainer.contrast is not None
        step, n = self.step - LOCATE_STEPS - self.options.steps, 2 * self.samples_per_step
        with torch.no_grad():
            (u,) = self.q(n=n, weights=self.ema_weights)
            whitened, log_r = trainer.contrast.whiten(u)
            known = trainer.known_log_ratio(log_prob_in_u(self.target, self.affine, u, 1.0), log_r)
        contrast_samples = trainer.sample_contrast(self.affine, trainer.contrast, 1.0, n)
        lr_scale = FINAL_CRITIC_LR_SCALE * (1 - step / self.settle_steps)
        trainer.update(whitened, known, *contrast_samples, lr_scale)
        self.metrics = trainer.diagnostics

    @torch.no_grad()
    def _finalize_q(self) -> None:
        """Fix the normals that the final q is contrasted with."""
        if self.critic_trainer is not None:
            reseed(mix_seeds(self.seed, 2), self.target.device)
            (u,) = self.q(n=CONTRAST_SAMPLES, weights=self.ema_weights)
            self.critic_trainer.contrast = self.critic_trainer.batch_contrast(u)

    @property
    def _train_options(self) -> TrainOptions:
        o = self.options
        return TrainOptions(
            steps=o.steps,
            lr=NORMAL_LR if o.family in ("mean-field", "full-rank") else o.lr,
            critic_lr=o.critic_lr,
            lr_schedule="cosine",
            beta1=ADVERSARIAL_BETA1 if o.has_critic else 0.9,
            critic_beta1=ADVERSARIAL_BETA1,
        )

    def _update_q(self, loss: Tensor, u: Tensor, lr_scale: float) -> None:
        """Update q by the loss ``[F, n]`` at samples u."""
        self._check_finite(loss, u)
        total = loss.mean(1).sum()  # the fits share no weights: each gets the gradient of its own mean
        total.backward(inputs=self.player.parameters)
        self.player.set_lr_scale(lr_scale)
        self.player.update(total)
        self.metrics["elbo"] = -loss.detach().mean(1)

    def _check_finite(self, loss: Tensor, u: Tensor) -> None:
        if self.target.device.type != "cpu" and self.step % GUARD_INTERVAL:
            return
        check_bounded(self.target, self.affine, u)
        if not bool(loss.isfinite().all()):
            fit, row = (~loss.isfinite()).nonzero()[0].tolist()
            raise NotFiniteError(
                f"Inference stopped: the log joint is not finite at step {self.step}.",
                given=describe_sample(self.target, self.affine(u.detach())[fit], row),
                expected="finite numbers; no weight was updated",
                fix="compute in log space and declare constraints; --dtype float64 helps if numbers are large",
            )

    def state(self) -> dict[str, Tensor]:
        """Return everything that a step depends on, by slash-separated key."""
        tensors = {"affine/mean": self.affine.mean, "affine/factor": self.affine.factor}
        tensors |= {f"q/{key}": weight for key, weight in self.q.detached_weights().items()}
        tensors |= {f"ema/{key}": weight for key, weight in self.ema_weights.items()}
        tensors |= {f"optimizer/{key}": value for key, value in self.player.state().items()}
        if self.critic_trainer is not None:
            tensors |= {f"critic/{key}": value for key, value in self.critic_trainer.state().items()}
        return tensors

    def load_state(self, tensors: dict[str, Tensor], step: int) -> None:
        """Restore what :meth:`state` returned after ``step`` steps."""
        tensors = {key: value.to(self.target.device) for key, value in tensors.items()}
        self.step, self.affine = step, AffineMap(**strip_prefix(tensors, "affine/"))
        self.q.load_weights(strip_prefix(tensors, "q/"))
        ema_weights = strip_prefix(tensors, "ema/")
        self.ema_weights = {name: ema_weights[name] for name in self.q.weights}  # in the order of q's weights
        if optimizer_state := strip_prefix(tensors, "optimizer/"):
            self.player.load_state(optimizer_state)
        if self.critic_trainer is not None:
            self.critic_trainer.load_state(strip_prefix(tensors, "critic/"))
