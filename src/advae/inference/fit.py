"""Several independent fits of q to one target, in one batch.

    locate   normals find where the target is, under a power of it                     LOCATE steps
    fit      q and critic, the power rising to 1                                       the steps asked for
    settle   q stays; the critic alone goes on, against the moments of many draws      a share SETTLE of them

What a step draws is a function of (seed, step), so that a fit that was stopped goes on as if it had not been. Families
with a density have no critic and do not settle.
"""

from __future__ import annotations

import torch
from torch import Tensor

from advae.errors import NotFiniteError
from advae.inference.critic_trainer import Game, under
from advae.inference.ensemble import Stack
from advae.inference.families import maker, normal_log_prob
from advae.inference.infer_options import InferOptions
from advae.inference.preconditioner import Place, log_density, lost, runaway
from advae.inference.target import Target
from advae.random import mix_seeds
from advae.training.optimizers import Player, rate_share
from advae.training.train_options import TrainOptions

LOCATE, SETTLE = 150, 0.2
FIRST_SHARE, LAST_SHARE = 0.5, 0.05  # of a step that locates: large to get there, small against noise
DRAWS_PER_DIM = 4  # at least, in a step that regresses on every coordinate or takes a full covariance
NORMAL_RATE = 0.02  # of the normals' own fit: they have no networks, and no noise at a normal target
RISING = 0.4  # share of the fit over which the power rises to 1
DECAY = 0.995  # of the average of q's weights, which is what is kept
MOMENT_DRAWS = 20_000  # of the settled q: its normal's mean errs by 0.7 % of a standard deviation
START = 1.0  # standard deviation of where the fits begin
CRITIC_END = 0.5  # the critic's rate does not fall below this share: it must follow q to the end
BETA1 = 0.5  # Adam's β₁ of both players of the game (the authors' code): momentum makes them circle


class Fit:
    """Fits under way.

    Args:
        target: what to fit.
        options: how.
        seed: of everything random.

    Attributes:
        place: where the target is.
        q: the families' networks.
        average: the average of their weights, which is what is kept.
        game: the critics; None for families with a density.
        step: how many steps were done.
        last: figures of the last step, ``[F]`` by name.
    """

    def __init__(self, target: Target, options: InferOptions, seed: int) -> None:
        self.target, self.options, self.seed, self.step = target, options, seed, 0
        d, fits, where = target.space.dim, options.fits, (target.device, target.dtype)
        reseed(mix_seeds(seed, 0), target.device)
        self.place = Place.start(fits, d, START * torch.randn(fits, d).to(*where))
        self.q = Stack(maker(options, d), fits).to(*where)
        self.average = {name: weight.detach().clone() for name, weight in self.q.weights.items()}
        found = torch.zeros((), device=target.device)
        self.player = Player("model", self.q.parameters(), self._course, found)
        self.game = Game(target, options, self._course, found) if options.has_critic else None
        self.settle = max(1, int(SETTLE * options.steps)) if self.game else 0
        self.last: dict[str, Tensor] = {}

    @property
    def total(self) -> int:
        """Steps of all phases."""
        return LOCATE + self.options.steps + self.settle

    @property
    def draws(self) -> int:
        """Of each fit in a step: as many as were asked for, and as many as the covariance of a full contrast needs."""
        full = self.game is not None and self.game.full
        return max(self.options.batch, DRAWS_PER_DIM * self.target.space.dim if full else 0)

    @property
    def phase(self) -> str:
        """What the next step is of."""
        if self.step < LOCATE:
            return "locate"
        return "fit" if self.step < LOCATE + self.options.steps else "settle"

    def advance(self) -> None:
        """One step."""
        reseed(mix_seeds(self.seed, 1, self.step), self.target.device)
        {"locate": self._locate, "fit": self._fit, "settle": self._settle}[self.phase]()
        self.step += 1
        if self.step == LOCATE + self.options.steps:
            self._begin_settling()

    # --- phases -------------------------------------------------------------------------------------------------

    def _locate(self) -> None:
        share = FIRST_SHARE * (LAST_SHARE / FIRST_SHARE) ** (self.step / LOCATE)
        fits, d = self.place.mean.shape
        u = torch.randn(fits, max(self.options.batch, DRAWS_PER_DIM * d), d).to(self.place.mean)
        u.requires_grad_()
        log_p = log_density(self.target, self.place, u, self.options.temper)
        self._guard(log_p, u)
        (grad,) = torch.autograd.grad(log_p.sum(), u)
        self.place = self.place.towards(grad, u.detach(), share)
        self.last = {"bound": (log_p - normal_log_prob(u, log_p.new_zeros(()))).mean(1).detach()}
        if self.step + 1 == LOCATE:
            runaway(self.target, self.place)
            if self.q.template.diagonal:
                self.place = self.place.diagonal()

    def _fit(self) -> None:
        step, n = self.step - LOCATE, self.options.batch
        risen = min(1.0, step / (RISING * self.options.steps))
        power = self.options.temper + (1 - self.options.temper) * risen
        share = rate_share(self._course, step)
        if self.game is None:
            u, log_q = self.q(n=n)
            self._move(log_q - log_density(self.target, self.place, u, power), u, share)
        else:
            for i in range(self.options.critic_steps):
                self._play(self.game, power, share, last=i == self.options.critic_steps - 1)
        decay, weights = min(DECAY, (1 + step) / (10 + step)), self.q.fixed()
        torch._foreach_lerp_(list(self.average.values()), list(weights.values()), 1 - decay)

    def _play(self, game: Game, power: float, share: float, *, last: bool) -> None:
        """The critics move; at the last of their steps q does too, by the same draws, both gradients taken before."""
        with torch.set_grad_enabled(last):
            (u,) = self.q(n=self.draws)
            r = game.normals(u)
            bar, log_r = r.standardized(u)
            log_p = log_density(self.target, self.place, u, power)
            if last:
                game.follow(log_p, log_r, first=self.step == LOCATE)
            known = game.known(log_p, log_r)
        if last:
            self._move(game.opinion(known, bar) + log_r - log_p, u, share)
        noise = game.noise(self.place, r, power, self.draws)
        game.learn(bar.detach(), known.detach(), *noise, CRITIC_END + (1 - CRITIC_END) * share)
        self.last |= game.report

    def _settle(self) -> None:
        assert self.game is not None and self.game.moments is not None
        step, n, r = self.step - LOCATE - self.options.steps, 2 * self.draws, self.game.moments
        with torch.no_grad():
            (u,) = self.q(n=n, weights=self.average)
            bar, log_r = r.standardized(u)
            known = self.game.known(log_density(self.target, self.place, u, 1.0), log_r)
        noise = self.game.noise(self.place, r, 1.0, n)
        self.game.learn(bar, known, *noise, CRITIC_END * (1 - step / self.settle))
        self.last |= self.game.report

    @torch.no_grad()
    def _begin_settling(self) -> None:
        if self.game is not None:
            reseed(mix_seeds(self.seed, 2), self.target.device)
            self.game.moments = self.game.normals(self.q(n=MOMENT_DRAWS, weights=self.average)[0])

    # --- moves --------------------------------------------------------------------------------------------------

    @property
    def _course(self) -> TrainOptions:
        """Rates: those of the normals are their own."""
        o = self.options
        return TrainOptions(
            steps=o.steps,
            lr=NORMAL_RATE if o.family in ("mean-field", "full-rank") else o.rate,
            critic_lr=o.critic_rate,
            lr_schedule="cosine",
            beta1=BETA1 if o.has_critic else 0.9,
            critic_beta1=BETA1,
        )

    def _move(self, loss: Tensor, u: Tensor, share: float) -> None:
        """Move q by ``loss [F, n]`` of draws u."""
        self._guard(loss, u)
        total = loss.mean(1).sum()  # the fits do not touch: each has the gradient of its own mean
        total.backward(inputs=self.player.parameters)
        self.player.set_rate(share)
        self.player.update(total)
        self.last["bound"] = -loss.detach().mean(1)

    def _guard(self, loss: Tensor, u: Tensor) -> None:
        """On the CPU every step is looked at; elsewhere one in fifty, as looking waits for the device."""
        if self.target.device.type != "cpu" and self.step % 50:
            return
        lost(self.target, self.place, u)
        if not bool(loss.isfinite().all()):
            row = int((~loss.isfinite()).any(0).nonzero()[0])
            values = self.target.space.constrained(self.place.z(u.detach())[:, row])[0]
            shown = ", ".join(f"{n} = {v[0].flatten()[:3].tolist()}" for n, v in list(values.items())[:4])
            raise NotFiniteError(
                f"inference stopped: the log joint was not finite at step {self.step}",
                given=f"near {shown}",
                expected="finite numbers; no weight was moved by it",
                remedy="keep to log space and declare constraints; --dtype float64 helps where numbers are large",
            )

    # --- state --------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Everything that a step depends on, by slash-named key."""
        found = {"place/mean": self.place.mean, "place/factor": self.place.factor}
        found |= {f"q/{key}": weight for key, weight in self.q.fixed().items()}
        found |= {f"average/{key}": weight for key, weight in self.average.items()}
        found |= {f"optimiser/{key}": value for key, value in self.player.state().items()}
        if self.game is not None:
            found |= {f"game/{key}": value for key, value in self.game.state().items()}
        return found

    def load(self, tensors: dict[str, Tensor], step: int) -> None:
        """Put back what :meth:`state` gave after ``step`` steps."""
        here = {key: value.to(self.target.device) for key, value in tensors.items()}
        self.step, self.place = step, Place(**under(here, "place/"))
        self.q.load(under(here, "q/"))
        average = under(here, "average/")
        self.average = {name: average[name] for name in self.q.weights}  # in their order
        if states := under(here, "optimiser/"):
            self.player.load_state(states)
        if self.game is not None:
            self.game.load(under(here, "game/"))


def reseed(seed: int, device: torch.device) -> None:
    """Set the random state that a step draws from."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
