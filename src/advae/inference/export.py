"""Export of a posterior: arrays for ArviZ, NetCDF, and the files of a run directory.

Groups of arrays ``[chain, draw, …]``, as ArviZ names them; a chain is a fit:

    posterior        every parameter, constrained
    sample_stats     lp: log p(data, θ) + log |det ∂θ/∂z|; log_q: log q(z), or the critic's estimate of it
    log_likelihood   if a function for it was given
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray

from advae.errors import ConfigError
from advae.evaluation.estimate import EvaluationResult
from advae.io import write_atomically, write_errors, write_json
from advae.progress import StageProgress
from advae.random import mix_seeds
from advae.run import Run

if TYPE_CHECKING:
    from advae.inference.posterior import Posterior

ArrayGroups = dict[str, dict[str, NDArray[Any]]]
NUM_SAMPLES = 4000  # in draws.npz and draws.nc, and of each reference or baseline
INSTALL_ARVIZ = "pip install 'advae[inference]'"


def make_groups(posterior: Posterior, n: int) -> ArrayGroups:
    """Return the groups of about n samples, with equal numbers of every fit."""
    z, log_q = posterior.sample_with_log_prob(-(-n // posterior.fits), seed=mix_seeds(posterior.seed, 16))
    groups: ArrayGroups = {
        "posterior": _constrained_arrays(posterior, z),
        "sample_stats": {"lp": posterior.log_prob(z).cpu().numpy(), "log_q": log_q.cpu().numpy()},
    }
    if posterior.log_likelihood is not None:
        groups["log_likelihood"] = {"y": _pointwise_log_likelihood(posterior, z)}
    return groups


def _constrained_arrays(posterior: Posterior, z: torch.Tensor) -> dict[str, NDArray[Any]]:
    return {name: value.cpu().numpy() for name, value in posterior.target.space.constrain(z)[0].items()}


@torch.no_grad()
def _pointwise_log_likelihood(posterior: Posterior, z: torch.Tensor) -> NDArray[Any]:
    """Return ``log p(y_i | θ) [F, n, N]`` by the user's function.

    Raises:
        ConfigError: the function does not return a row per sample.
    """
    assert posterior.log_likelihood is not None
    values = posterior.target.space.constrain(z.flatten(0, 1))[0]
    result = posterior.log_likelihood(**values, **posterior.target.data)
    if not isinstance(result, torch.Tensor) or result.dim() < 2 or len(result) != z.shape[0] * z.shape[1]:
        raise ConfigError(
            "log_likelihood returned a wrong shape.",
            given=tuple(result.shape) if isinstance(result, torch.Tensor) else type(result).__name__,
            expected="[S, N]: one number per sample and observation",
        )
    return result.reshape(*z.shape[:2], *result.shape[1:]).cpu().numpy()


def to_arviz(groups: ArrayGroups) -> Any:
    """Return ArviZ's container: ``InferenceData`` before version 1, otherwise a ``DataTree``.

    Raises:
        ConfigError: ArviZ is not installed.
    """
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # of the move to version 1
            arviz = import_module("arviz")
    except ImportError:
        raise ConfigError("ArviZ is not installed.", fix=INSTALL_ARVIZ) from None
    if int(arviz.__version__.partition(".")[0]) >= 1:
        return arviz.from_dict(groups)
    return arviz.from_dict(**groups)


def can_write_netcdf() -> bool:
    """Return whether the packages that write NetCDF are installed."""
    return all(find_spec(name) is not None for name in ("arviz", "h5netcdf"))


def write_netcdf(path: Path, groups: ArrayGroups, attributes: Mapping[str, str]) -> None:
    """Write the groups, and attributes of the file, to a NetCDF file, atomically.

    Raises:
        ConfigError: ArviZ or h5netcdf is not installed.
    """
    if not can_write_netcdf():
        raise ConfigError("NetCDF files need ArviZ and h5netcdf.", fix=INSTALL_ARVIZ)
    data = to_arviz(groups)
    data.attrs.update(attributes)
    with write_errors(path), tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / "draws.nc"
        data.to_netcdf(str(temporary), engine="h5netcdf")
        write_atomically(path, temporary.read_bytes())


def write_results(run: Run, posterior: Posterior, stage: StageProgress) -> None:
    """Write samples, diagnostics, summary and report to a run directory."""
    from advae.report.posterior_report import write_posterior_report

    groups = make_groups(posterior, NUM_SAMPLES)
    run.write_arrays("draws.npz", groups["posterior"])
    if can_write_netcdf():
        info = {"family": posterior.options.family, "seed": str(posterior.seed)}
        attributes = {"inference_library": "advae", **info}
        write_netcdf(run.file("draws.nc"), groups, attributes)
    if posterior.reference is not None:
        z = posterior.reference.z
        thinned = z[:, :: max(1, z.shape[0] * z.shape[1] // NUM_SAMPLES)]
        run.write_arrays("reference.npz", _constrained_arrays(posterior, thinned))
    if posterior.baselines:
        arrays: dict[str, NDArray[Any]] = {}
        for family, baseline in posterior.baselines.items():
            z = baseline.sample_unconstrained(NUM_SAMPLES, seed=mix_seeds(posterior.seed, 17))
            arrays |= {f"{family}/{name}": value for name, value in _constrained_arrays(posterior, z).items()}
        run.write_arrays("baselines.npz", arrays)
    diagnostics = posterior.check(stage=stage)
    run.write_estimates(diagnostics.to_dict())
    write_json(run.file("summary.json"), make_summary(posterior, diagnostics))
    write_posterior_report(run)


def make_summary(posterior: Posterior, diagnostics: EvaluationResult) -> dict[str, Any]:
    """Return the content of summary.json."""
    evidence = posterior.log_evidence()
    summary: dict[str, Any] = {
        "family": posterior.options.family,
        "fits": posterior.fits,
        "seed": posterior.seed,
        "seconds": round(posterior.seconds, 1),
        "reliable": not any(remark.warning for remark in diagnostics.remarks),
        "verdict": diagnostics.remarks[0].text,
        "log_evidence": {"value": evidence.value, "stderr": evidence.stderr, "kind": evidence.kind},
        "elbo": [{"value": e.value, "stderr": e.stderr, "kind": e.kind} for e in posterior.elbo()],
        "parameters": posterior.summary(NUM_SAMPLES),
        "remarks": [asdict(remark) for remark in diagnostics.remarks],
        "history": posterior.history,
    }
    if posterior.reference is not None:
        hmc = posterior.reference
        samples = hmc.z.shape[0] * hmc.z.shape[1]
        summary["reference"] = {
            "acceptance": hmc.acceptance,
            "rhat": hmc.rhat,
            "ess": hmc.ess,
            "samples": samples,
        }
    return summary
