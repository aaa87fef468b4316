"""Several independent fits of q to one target, in one batch.

    locate   normals find where the target is, under a power of it                     LOCATE steps
    fit      q and critic, the power rising to 1                                       the steps asked for
    settle   q stays; the critic alone goes on, against the moments of many draws      a share SETTLE of them

What a step draws is a function of (seed, step), so that a fit that was stopped goes on as if it had not been. Families
with a density have no critic and do not settle.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from advae.data import mix
from advae.errors import NoDensityError, NotFiniteError
from advae.inference.contrast import Normals
from advae.inference.critic import Critic, held
from advae.inference.families import maker, normal_log_prob
from advae.inference.options import InferOptions
from advae.inference.place import Place, log_density, lost, runaway
from advae.inference.stacked import Stack
from advae.inference.target import Target
from advae.ratios import logistic_contrast
from advae.training.options import TrainOptions
from advae.training.players import Player, rate_share

LOCATE, SETTLE = 150, 0.2
FIRST_SHARE, LAST_SHARE = (
    0.5,
    0.05,
)  # of a step that locates: large ones to get there, small ones against noise
DRAWS_PER_DIM = 4  # at least, in a step that locates: it regresses on every coordinate
NORMAL_RATE = 0.02  # of the normals' own fit: they have no networks, and no noise at a normal target
RISING = 0.4  # share of the fit over which the power rises to 1
DECAY = 0.995  # of the average of q's weights, which is what is kept
MOMENT_DRAWS = 20_000
START = 1.0  # standard deviation of where the fits begin


OFFSET_RATE = 0.02  # by which c follows the bound: the mean of log p − log r over draws of q
CRITIC_END = 0.5  # the critic's rate does not fall below this share: it must follow q to the end
BETA1 = 0.5  # Adam's β₁ of both players of the game (the authors' code): momentum makes them circle


class Fit:
    """Fits under way.

    Args:
        target: what to fit.
        options: how.
        seed: of everything random.
    """

    def __init__(self, target: Target, options: InferOptions, seed: int) -> None:
        self.target, self.options, self.seed, self.step = target, options, seed, 0
        d, fits, where = target.space.dim, options.fits, (target.device, target.dtype)
        reseed(mix(seed, 0), target.device)
        self.place = Place.start(fits, d, START * torch.randn(fits, d).to(*where))
        self.q = Stack(maker(options, d), fits).to(*where)
        self.average = {name: weight.detach().clone() for name, weight in self.q.weights.items()}
        self.has_density: bool = self.q.template.has_density  # type: ignore[assignment]
        self.critic: Stack | None = None
        if not self.has_density:
            width, blocks = options.critic_width, options.critic_blocks
            self.critic = Stack(lambda: Critic(d, width, blocks), fits).to(*where)
        self.offset = torch.zeros(fits).to(*where)
        self.moments: Normals | None = None
        steps = options.steps
        self.locate = LOCATE
        self.settle = 0 if self.has_density else max(1, int(SETTLE * steps))
        self._found = torch.zeros((), device=target.device)
        self.players = self._players()
        self.last: dict[str, Tensor] = {}

    @property
    def total(self) -> int:
        """Steps of all phases."""
        return self.locate + self.options.steps + self.settle

    @property
    def phase(self) -> str:
        """What the next step is of."""
        if self.step < self.locate:
            return "locate"
        return "fit" if self.step < self.locate + self.options.steps else "settle"

    def advance(self) -> None:
        """One step."""
        reseed(mix(self.seed, 1, self.step), self.target.device)
        getattr(self, f"_{self.phase}")()
        self.step += 1
        if self.step == self.locate + self.options.steps and self.critic is not None:
            self._begin_settling()

    # --- phases -------------------------------------------------------------------------------------------------

    def _locate(self) -> None:
        share = FIRST_SHARE * (LAST_SHARE / FIRST_SHARE) ** (self.step / self.locate)
        fits, d = self.place.mean.shape
        u = (
            torch.randn(fits, max(self.options.batch, DRAWS_PER_DIM * d), d)
            .to(self.place.mean)
            .requires_grad_()
        )
        log_p = log_density(self.target, self.place, u, self.options.temper)
        self._guard(log_p, u)
        (grad,) = torch.autograd.grad(log_p.sum(), u)
        self.place = self.place.towards(grad, u.detach(), share)
        self.last["bound"] = (log_p - normal_log_prob(u, log_p.new_zeros(()))).mean(1).detach()
        if self.step + 1 == self.locate:
            runaway(self.target, self.place)
            if self.q.template.diagonal:
                self.place = self.place.diagonal()

    def _fit(self) -> None:
        step = self.step - self.locate
        power = min(
            1.0, self.options.temper + (1 - self.options.temper) * step / (RISING * self.options.steps)
        )
        share = rate_share(self._course, step)
        critic_share = CRITIC_END + (1 - CRITIC_END) * share
        if self.critic is not None:
            for _ in range(self.options.critic_steps - 1):
                with torch.no_grad():
                    (u,) = self.q(n=self.options.batch)
                    r = Normals.of(u, self.options.contrast == "full")
                    bar, log_r = r.standardised(u)
                    known = self._known(log_density(self.target, self.place, u, power), log_r)
                self._move_critic(bar, known, *self._noise(r, power, self.options.batch), critic_share)
        drawn = self.q(n=self.options.batch)
        u = drawn[0]
        log_p = log_density(self.target, self.place, u, power)
        if self.critic is None:
            self._move("q", drawn[1] - log_p, u, share)
        else:
            r = Normals.of(u, self.options.contrast == "full")
            bar, log_r = r.standardised(u)
            self.offset = self.offset.lerp((log_p - log_r).detach().mean(1), OFFSET_RATE if step else 1.0)
            known = self._known(log_p, log_r)
            T = self.critic(known, bar, weights=self.critic.fixed())
            self._move("q", T + log_r - log_p, u, share)
            self._move_critic(
                bar.detach(), known.detach(), *self._noise(r, power, self.options.batch), critic_share
            )
        decay = min(DECAY, (1 + step) / (10 + step))
        torch._foreach_lerp_(
            list(self.average.values()), [w.detach() for w in self.q.weights.values()], 1 - decay
        )

    def _known(self, log_p: Tensor, log_r: Tensor) -> Tensor:
        """``κ`` at draws, by their log densities."""
        if self.options.known == "none":
            return torch.zeros_like(log_p)
        return held(log_p - log_r - self.offset.unsqueeze(1))

    @torch.no_grad()
    def _noise(self, r: Normals, power: float, n: int) -> tuple[Tensor, Tensor]:
        """``η [F, n, d]``, and ``κ`` there."""
        eta = torch.randn(*r.mean.shape, n).to(r.mean).mT.contiguous()
        if self.options.known == "none":
            return eta, torch.zeros_like(eta[..., 0])
        u = r.mean.unsqueeze(1) + eta @ r.factor.mT
        return eta, self._known(log_density(self.target, self.place, u, power), r.standardised(u)[1])

    @torch.no_grad()
    def ratios(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The settled critic's ``T`` and ``log r`` at draws ``u [F, n, d]``, by all of the data: ``[F, n]`` each.

        Raises:
            NoDensityError: there is no critic, or it has not settled.
        """
        if self.critic is None or self.moments is None:
            raise NoDensityError("this fit has no settled critic", remedy="train it to the end")
        bar, log_r = self.moments.standardised(u)
        log_p = (
            log_density(self.target, self.place, u, 1.0, whole=True)
            if self.options.known == "target"
            else log_r
        )
        return self.critic(self._known(log_p, log_r), bar), log_r

    def _settle(self) -> None:
        assert self.moments is not None
        step = self.step - self.locate - self.options.steps
        with torch.no_grad():
            n = 2 * self.options.batch
            (u,) = self.q(n=n, weights=self.average)
            bar, log_r = self.moments.standardised(u)
            known = self._known(log_density(self.target, self.place, u, 1.0), log_r)
            noise = self._noise(self.moments, 1.0, n)
        self._move_critic(bar, known, *noise, 0.5 * (1 - step / self.settle))

    def _begin_settling(self) -> None:
        reseed(mix(self.seed, 2), self.target.device)
        with torch.no_grad():
            (u,) = self.q(n=MOMENT_DRAWS, weights=self.average)
        self.moments = Normals.of(u, self.options.contrast == "full")

    # --- moves --------------------------------------------------------------------------------------------------

    def _move(self, player: str, loss: Tensor, u: Tensor, share: float) -> None:
        """Move q by ``loss [F, n]`` of draws u."""
        self._guard(loss, u)
        total = loss.mean(1).sum()  # the fits do not touch: each has the gradient of its own mean
        total.backward(inputs=self.players[player].parameters)
        self.players[player].update(share, total)
        self.last["bound"] = -loss.detach().mean(1)

    def _move_critic(
        self, bar: Tensor, known_bar: Tensor, eta: Tensor, known_eta: Tensor, share: float
    ) -> None:
        assert self.critic is not None
        both, known = torch.cat([bar, eta], 1), torch.cat([known_bar, known_eta], 1)
        t_p, t_q = self.critic(known, both).chunk(2, 1)
        contrast = logistic_contrast(t_p, t_q)
        total = contrast.loss.mean(1).sum()
        total.backward(inputs=self.players["critic"].parameters)
        self.players["critic"].update(share, total)
        self.last |= {name: value.mean(1) for name, value in contrast.report("critic").items()}

    def _guard(self, loss: Tensor, u: Tensor) -> None:
        """On the CPU every step is looked at; elsewhere one in fifty, as looking waits for the device."""
        if self.target.device.type != "cpu" and self.step % 50:
            return
        lost(self.target, self.place, u)
        if not bool(loss.isfinite().all()):
            row = int((~loss.isfinite()).any(0).nonzero()[0])
            z = self.place.z(u.detach())[:, row]
            values = self.target.space.constrained(z)[0]
            shown = ", ".join(f"{n} = {v[0].flatten()[:3].tolist()}" for n, v in list(values.items())[:4])
            raise NotFiniteError(
                f"inference stopped: the log joint was not finite at step {self.step}",
                given=f"near {shown}",
                expected="finite numbers; no weight was moved by it",
                remedy="keep to log space and declare constraints; --dtype float64 helps where numbers are large",
            )

    # --- optimisers ---------------------------------------------------------------------------------------------

    @property
    def _course(self) -> TrainOptions:
        rate = self.options.rate if self.options.family not in ("mean-field", "full-rank") else NORMAL_RATE
        return TrainOptions(
            steps=self.options.steps,
            rate=rate,
            critic_rate=self.options.critic_rate,
            schedule="cosine",
            beta1=0.9 if self.has_density else BETA1,
            critic_beta1=BETA1,
        )

    def _player(self, name: str, stack: Stack) -> Player:
        return Player("model" if name == "q" else name, stack.parameters(), self._course, self._found)

    def _players(self) -> dict[str, Player]:
        return {name: self._player(name, stack) for name, stack in self._stacks().items()}

    def _stacks(self) -> dict[str, Stack]:
        return {"q": self.q} | ({"critic": self.critic} if self.critic else {})

    # --- state --------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Everything that a step depends on, by slash-named key."""
        found = {"place/mean": self.place.mean, "place/factor": self.place.factor, "offset": self.offset}
        for name, stack in self._stacks().items():
            found |= {f"{name}/{key}": w.detach() for key, w in stack.weights.items()}
            found |= {f"optimiser/{name}/{key}": v for key, v in self.players[name].state().items()}
        found |= {f"average/{key}": w for key, w in self.average.items()}
        if self.moments is not None:
            found |= {"moments/mean": self.moments.mean, "moments/factor": self.moments.factor}
        return found

    def load(self, tensors: dict[str, Tensor], step: int) -> None:
        """Put back what :meth:`state` gave after ``step`` steps."""

        def under(prefix: str) -> dict[str, Any]:
            return {
                k.removeprefix(prefix): v.to(self.target.device)
                for k, v in tensors.items()
                if k.startswith(prefix)
            }

        self.step = step
        self.place, self.offset = Place(**under("place/")), tensors["offset"].to(self.target.device)
        for name, stack in self._stacks().items():
            stack.load(under(f"{name}/"))
            if states := under(f"optimiser/{name}/"):
                self.players[name].load_state(states)
        average = under("average/")
        self.average = {name: average[name] for name in self.q.weights}  # in their order
        if moments := under("moments/"):
            self.moments = Normals(**moments)


def reseed(seed: int, device: torch.device) -> None:
    """Set the random state that a step draws from."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
