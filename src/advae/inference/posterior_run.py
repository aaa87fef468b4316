"""What a posterior leaves in its run directory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from advae.data import mix
from advae.evaluation.estimate import Estimates
from advae.evaluation.resumable import Ticks
from advae.inference.export import can_write, groups, write_netcdf
from advae.inference.implicit_posterior import Posterior
from advae.inference.summary import rows
from advae.io import write_json
from advae.report.posterior_report import write_inference_report
from advae.run import Run

DRAWS = 4000
BESIDE = 4000  # draws of what is set beside them


def write_results(
    run: Run, posterior: Posterior, stage: Callable[[str, int], AbstractContextManager[Ticks]]
) -> None:
    """Draws, checks, summary and report."""
    found = groups(posterior, DRAWS)
    run.write_arrays("draws.npz", found["posterior"])
    if can_write():
        about = {
            "inference_library": "advae",
            "family": posterior.options.family,
            "seed": str(posterior.seed),
        }
        write_netcdf(run.path / "draws.nc", found, about)
    if posterior.reference is not None:
        z = posterior.reference.z
        run.write_arrays(
            "reference.npz", _constrained(posterior, z[:, :: max(1, z.shape[0] * z.shape[1] // BESIDE)])
        )
    if posterior.baselines:
        arrays: dict[str, NDArray[Any]] = {}
        for name, other in posterior.baselines.items():
            z = other.unconstrained(BESIDE, seed=mix(posterior.seed, 17))
            arrays |= {f"{name}/{key}": value for key, value in _constrained(posterior, z).items()}
        run.write_arrays("baselines.npz", arrays)
    checked = posterior.check(stage=stage)
    run.write_estimates(checked.to_dict())
    write_json(run.path / "summary.json", summarised(posterior, checked, found["posterior"]))
    write_inference_report(run)


def _constrained(posterior: Posterior, z: Any) -> dict[str, NDArray[Any]]:
    return {name: value.cpu().numpy() for name, value in posterior.target.space.constrained(z)[0].items()}


def summarised(posterior: Posterior, checked: Estimates, draws: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """summary.json."""
    import torch

    space = posterior.target.space
    flat = np.concatenate([draws[name].reshape(*draws[name].shape[:2], -1) for name in space.names], axis=2)
    evidence = posterior.log_evidence()
    found = {
        "family": posterior.options.family,
        "fits": posterior.fits,
        "seed": posterior.seed,
        "seconds": round(posterior.seconds, 1),
        "trusted": not any(remark.warning for remark in checked.remarks),
        "verdict": checked.remarks[0].text,
        "log_evidence": {"value": evidence.value, "stderr": evidence.stderr, "kind": evidence.kind},
        "bounds": [{"value": b.value, "stderr": b.stderr, "kind": b.kind} for b in posterior.bounds()],
        "parameters": rows(torch.from_numpy(flat), space.labels()),
        "remarks": [asdict(remark) for remark in checked.remarks],
        "history": posterior.history,
    }
    if posterior.reference is not None:
        r = posterior.reference
        found["reference"] = {
            "acceptance": r.acceptance,
            "rhat": r.rhat,
            "ess": r.ess,
            "draws": r.z.shape[0] * r.z.shape[1],
        }
    return found
