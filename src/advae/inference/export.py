"""Draws in the form that ArviZ reads: groups of arrays [chain, draw, …], in memory or as a NetCDF file.

    posterior        every parameter, constrained
    sample_stats     lp: log p(data, θ) + log |det ∂θ/∂z|; log_q: log q(z), or the critic's estimate of it
    log_likelihood   where a function for it was given

Both major versions of ArviZ read such a file: before version 1 as ``InferenceData``, from it on as a ``DataTree``. It
is written by h5netcdf (with h5py) alone; ArviZ itself is needed only for :func:`as_arviz`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from advae.data import mix
from advae.errors import ConfigError
from advae.inference.posterior import Fitted
from advae.io import write_atomically

Groups = dict[str, dict[str, NDArray[Any]]]
REMEDY = "pip install 'advae[arviz]'"


def groups(posterior: Fitted, n: int) -> Groups:
    """The groups of about n draws, as many of every fit."""
    target = posterior.target
    z, log_q = posterior.drawn(-(-n // posterior.fits), seed=mix(posterior.seed, 16))
    values = target.space.constrained(z)[0]
    with torch.no_grad():
        log_p = torch.cat([target(part) for part in z.flatten(0, 1).split(4096)]).reshape(log_q.shape)
    found: Groups = {
        "posterior": {name: value.cpu().numpy() for name, value in values.items()},
        "sample_stats": {"lp": log_p.cpu().numpy(), "log_q": log_q.cpu().numpy()},
    }
    if posterior.log_likelihood is not None:
        found["log_likelihood"] = {"y": log_likelihood(posterior, z)}
    return found


def log_likelihood(posterior: Fitted, z: torch.Tensor) -> NDArray[Any]:
    """``log p(y_i | θ) [F, n, N]`` by the user's function.

    Raises:
        ConfigError: it does not give a row of numbers for every draw.
    """
    assert posterior.log_likelihood is not None
    values = posterior.target.space.constrained(z.flatten(0, 1))[0]
    with torch.no_grad():
        found = posterior.log_likelihood(**values, **posterior.target.data)
    if not isinstance(found, torch.Tensor) or found.dim() < 2 or len(found) != z.shape[0] * z.shape[1]:
        given = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        raise ConfigError(
            "log_likelihood has the wrong shape",
            given=given,
            expected="[S, N]: a number for every observation",
        )
    return found.reshape(*z.shape[:2], *found.shape[1:]).cpu().numpy()


def as_arviz(found: Groups) -> Any:
    """What the installed version of ArviZ works with.

    Raises:
        ConfigError: ArviZ is not installed.
    """
    try:
        arviz = import_module("arviz")
    except ImportError:
        raise ConfigError("ArviZ is not installed", remedy=REMEDY) from None
    if int(arviz.__version__.partition(".")[0]) >= 1:
        return arviz.from_dict(found)
    return arviz.from_dict(**found)


def can_write() -> bool:
    """Whether what writes NetCDF is installed."""
    return all(find_spec(name) is not None for name in ("h5netcdf", "h5py"))


def write_netcdf(path: Path, found: Groups, about: Mapping[str, str]) -> None:
    """Write the groups to a NetCDF file, whole or not at all.

    Args:
        path: the file.
        found: of :func:`groups`.
        about: attributes of the file.

    Raises:
        ConfigError: h5netcdf or h5py is not installed.
    """
    if not can_write():
        raise ConfigError(
            "NetCDF files are written by h5netcdf and h5py, which are not both installed", remedy=REMEDY
        )
    h5netcdf = import_module("h5netcdf")
    with tempfile.TemporaryDirectory() as folder:
        aside = os.path.join(folder, "draws.nc")
        with h5netcdf.File(aside, "w") as file:
            for key, text in about.items():
                file.attrs[key] = text
            for name, arrays in found.items():
                _write_group(file.create_group(name), arrays)
        write_atomically(path, Path(aside).read_bytes())


def _write_group(group: Any, arrays: Mapping[str, NDArray[Any]]) -> None:
    chains, draws = next(iter(arrays.values())).shape[:2]
    sizes = {"chain": chains, "draw": draws}
    for name, array in arrays.items():
        sizes |= {f"{name}_dim_{i}": size for i, size in enumerate(array.shape[2:])}
    group.dimensions = sizes
    for dimension, size in sizes.items():
        group.create_variable(dimension, (dimension,), data=np.arange(size))
    for name, array in arrays.items():
        axes = ("chain", "draw", *(f"{name}_dim_{i}" for i in range(array.ndim - 2)))
        group.create_variable(name, axes, data=array)
