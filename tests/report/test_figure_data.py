"""Figure data: repeatable, without side effects, and only what a model supports."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import torch

from advae.report.figure_data import collect_figure_data


def test_collecting_is_repeatable_and_has_no_side_effects(fakes: ModuleType) -> None:
    data, model = fakes.make_digits(), fakes.FakeModel((1, 8, 8), 4)
    model.train()
    state = torch.get_rng_state()
    first, second = collect_figure_data(model, data), collect_figure_data(model, data)
    assert model.training
    assert torch.equal(state, torch.get_rng_state())
    assert first.latents is not None and first.labels is not None
    assert (first.latents == second.latents).all()
    assert first.latents.shape == (first.num_encoded * first.latents_per_example, 4)
    n = first.num_encoded
    assert (first.labels[:n] == first.labels[n : 2 * n]).all()


def test_true_posteriors_need_two_latent_dimensions_and_a_density(fakes: ModuleType) -> None:
    data = fakes.make_digits()
    grids = collect_figure_data(fakes.FakeModel((1, 8, 8), 2), data).posteriors
    assert grids is not None
    assert grids.axes.shape[:2] == (6, 2)
    assert np.shape(grids.images) == (6, 1, 8, 8)
    assert collect_figure_data(fakes.FakeModel((1, 8, 8), 3), data).posteriors is None
    implicit = fakes.FakeModel((1, 8, 8), 2)
    implicit.likelihood_class = fakes.FakeImplicit
    assert collect_figure_data(implicit, data).posteriors is None
