"""Eight schools (Rubin 1981): the effect of coaching in eight schools, partially pooled.

advae infer docs/examples/eight_schools.py --reference hmc
"""

import torch
from torch.distributions import HalfCauchy, Normal

import advae

y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
sigma = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])

parameters = {"mu": (), "tau": advae.positive, "eta": (8,)}


def log_likelihood(mu, tau, eta):
    """log p(y_i | theta_i), [S, 8]."""
    theta = mu[:, None] + tau[:, None] * eta
    return Normal(theta, sigma).log_prob(y)


def log_joint(mu, tau, eta):
    """log p(y, mu, tau, eta), [S]: every parameter arrives as [S, *shape]."""
    prior = (
        Normal(0.0, 5.0).log_prob(mu) + HalfCauchy(5.0).log_prob(tau) + Normal(0.0, 1.0).log_prob(eta).sum(-1)
    )
    return prior + log_likelihood(mu, tau, eta).sum(-1)
