"""Export to ArviZ and NetCDF."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import advae
from advae.errors import ConfigError
from advae.inference import export
from advae.inference.export import make_groups, write_netcdf
from inference.targets import rescaled


def log_likelihood(x: Tensor) -> Tensor:
    return -(x.sum(-1, keepdim=True) - torch.tensor([1.5, 2.5, 0.5])).square()


@pytest.fixture(scope="module")
def posterior(exact_posterior: advae.Posterior) -> advae.Posterior:
    with_likelihood = rescaled(exact_posterior, 1.0)
    with_likelihood.log_likelihood = log_likelihood
    return with_likelihood


def test_netcdf_opens_in_arviz_and_xarray(tmp_path: Path, posterior: advae.Posterior) -> None:
    """With the readers of ArviZ before and from version 1; and the same groups in memory."""
    arviz = pytest.importorskip("arviz")
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    groups = make_groups(posterior, 10)
    write_netcdf(tmp_path / "draws.nc", groups, {"inference_library": "advae"})
    opened = arviz.from_netcdf(str(tmp_path / "draws.nc"))
    tree = xarray.open_datatree(tmp_path / "draws.nc")
    for data in (opened, posterior.to_arviz(10), tree):
        assert data["posterior"]["x"].dims[:2] == ("chain", "draw")
        np.testing.assert_allclose(np.asarray(data["posterior"]["x"]), groups["posterior"]["x"])
        np.testing.assert_allclose(np.asarray(data["sample_stats"]["lp"]), groups["sample_stats"]["lp"])
        assert np.asarray(data["log_likelihood"]["y"]).shape == (2, 5, 3)
    assert tree.attrs["inference_library"] == "advae"
    assert list(arviz.summary(opened).index) == ["x[0]", "x[1]"]


def test_a_log_likelihood_of_a_wrong_shape(posterior: advae.Posterior) -> None:
    wrong = rescaled(posterior, 1.0)
    wrong.log_likelihood = lambda x: x.sum()
    with pytest.raises(ConfigError, match="log_likelihood"):
        make_groups(wrong, 10)


def test_missing_packages(
    tmp_path: Path, posterior: advae.Posterior, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="inference"):
        write_netcdf(tmp_path / "draws.nc", make_groups(posterior, 4), {})

    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(export, "import_module", missing)
    with pytest.raises(ConfigError, match="inference"):
        posterior.to_arviz(4)
