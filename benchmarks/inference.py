"""Black-box posteriors against long Hamiltonian chains: the targets of ``inference_targets.py``, five families each.

    python benchmarks/inference.py [--targets a,b] [--families a,b] [--steps N] [--page]

A cell of the table is one call of ``advae.infer`` with five fits in one batch. These are the five seeds: their weights,
starting points and samples are independent, and the diagnostics are those that a user gets from the call. Each cell is
written to results/inference.json when it is finished, and finished cells are not computed again, so that an interrupted
command can be repeated. ``--page`` only writes results/inference.md from the existing results.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from inference_page import make_page
from inference_targets import TARGETS, Example
from sliced_wasserstein import sliced_wasserstein
from torch import Tensor

import advae
from advae.inference.hmc_reference import HMCConfig, sample_hmc
from advae.inference.infer_options import FAMILIES, InferOptions
from advae.inference.parameters import ParameterSpace
from advae.inference.target import Target
from advae.io import write_json
from advae.metrics.two_sample import mmd_test

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "results" / "inference.json", ROOT / "results" / "inference.md"
NUM_SEEDS, NUM_SAMPLES, NUM_MMD_SAMPLES = 5, 4000, 1000
LONG_CHAINS = HMCConfig(chains=64, warmup=1000, samples=250, thin=8)
# A seed has failed if some mean has an error above MAX_MEAN_ERROR standard deviations, some standard deviation is not
# within SD_RATIO of the chain's, or a mode has less than MIN_MODE_SHARE of its share of the chain's samples.
MAX_MEAN_ERROR, SD_RATIO, MIN_MODE_SHARE = 1 / 3, (0.6, 1.6), 0.2


def reference_samples(name: str, example: Example, diagnostics: dict[str, Any]) -> Tensor:
    """Return samples ``[n, d]`` of the long chains, cached in runs/; time and diagnostics go to ``diagnostics``."""
    path = ROOT / "runs" / "inference-reference" / f"{name}.npy"
    if path.exists() and name in diagnostics:
        return torch.from_numpy(np.load(path, allow_pickle=False))
    start = time.process_time()
    if name == "schools-centred":  # the posterior of "schools", whose chains mix: theta = mu + tau eta
        example = TARGETS["schools"]()
    space = ParameterSpace(example.parameters)
    hmc = sample_hmc(Target(example.log_joint, space), LONG_CHAINS, 1)
    z = hmc.z.flatten(0, 1)
    if name == "schools-centred":
        z = _centered(space.constrain(z)[0])
    diagnostics[name] = {
        "seconds": time.process_time() - start,
        "rhat": hmc.rhat,
        "ess": hmc.ess,
        "acceptance": hmc.acceptance,
        "draws": len(z),
        "d": z.shape[1],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, z.numpy())
    return z


def _centered(values: dict[str, Tensor]) -> Tensor:
    theta = values["mu"][:, None] + values["tau"][:, None] * values["eta"]
    return torch.cat([values["mu"][:, None], values["tau"].log()[:, None], theta], 1)


def compare(z: Tensor, reference: Tensor, example: Example, space: ParameterSpace) -> dict[str, Any]:
    """Compare samples ``z [n, d]`` of one fit with the chains, in the chains' standard deviations."""
    mean, sd = reference.mean(0), reference.std(0)
    order = torch.randperm(len(reference), generator=torch.Generator().manual_seed(0))
    a, b = (z - mean) / sd, (reference[order[: len(z)]] - mean) / sd
    sd_ratio = z.std(0) / sd
    result = {
        "sliced": sliced_wasserstein(a, b),
        "mmd": mmd_test(a[:NUM_MMD_SAMPLES], b[:NUM_MMD_SAMPLES], permutations=19).value,
        "mean": float(a.mean(0).abs().max()),
        "sd_low": float(sd_ratio.min()),
        "sd_high": float(sd_ratio.max()),
    }
    if example.region is not None:
        regions, reference_regions = (example.region(space.constrain(x)[0]) for x in (z, reference))
        modes = int(reference_regions.max()) + 1
        shares = [
            float((regions == m).float().mean()) / float((reference_regions == m).float().mean())
            for m in range(modes)
        ]
        result |= {"modes": sum(share > MIN_MODE_SHARE for share in shares), "of": modes}
    result["failed"] = bool(
        result["mean"] > MAX_MEAN_ERROR
        or not SD_RATIO[0] < result["sd_low"] <= result["sd_high"] < SD_RATIO[1]
        or result.get("modes", 1) < result.get("of", 1)
    )
    return result


def run_cell(name: str, family: str, steps: int, reference: Tensor) -> dict[str, Any]:
    """Run one call of ``infer``, and compare it with the chains."""
    example = TARGETS[name]()
    space = ParameterSpace(example.parameters)
    cpu_start, wall_start = time.process_time(), time.monotonic()
    posterior = advae.infer(
        example.log_joint, example.parameters, family=family, fits=NUM_SEEDS, steps=steps, seed=0, quiet=True
    )
    seconds, wall = time.process_time() - cpu_start, time.monotonic() - wall_start
    z = posterior.sample_unconstrained(NUM_SAMPLES)
    diagnostics = posterior.check()
    evidence = posterior.log_evidence()
    rhat = [estimate.value for estimate in diagnostics if estimate.metric == "rhat"]
    warnings = [remark.about for remark in diagnostics.remarks if remark.warning]
    return {
        "seconds": seconds,
        "wall": wall,
        "steps": steps,
        "seeds": [compare(fit, reference, example, space) for fit in z],
        "bounds": [elbo.value for elbo in posterior.elbo()],
        "evidence": [evidence.value, evidence.stderr, evidence.protocol["ess"]],
        "rhat": rhat[0] if rhat else None,
        "flagged": bool(warnings),
        "warned": [about for about in warnings if about != "posterior"],
        "remarks": [remark.text for remark in diagnostics.remarks],
    }


def floor(reference: Tensor) -> dict[str, float]:
    """Return the distances between two parts of the chains' samples."""
    order = torch.randperm(len(reference), generator=torch.Generator().manual_seed(1))
    parts = reference[order[:NUM_SAMPLES]], reference[order[NUM_SAMPLES : 2 * NUM_SAMPLES]]
    a, b = ((x - reference.mean(0)) / reference.std(0) for x in parts)
    mmd = mmd_test(a[:NUM_MMD_SAMPLES], b[:NUM_MMD_SAMPLES], permutations=19)
    return {"sliced": sliced_wasserstein(a, b), "mmd": mmd.value}


def main() -> None:
    """Compute the missing cells, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--families", default="full-rank,mean-field,implicit,flow,noise-basis")
    parser.add_argument("--steps", type=int, default=InferOptions().steps)
    parser.add_argument("--page", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for key in ("reference", "floor", "cells"):
        results.setdefault(key, {})
    if not args.page:
        results["versions"] = {"torch": torch.__version__, "advae": advae.__version__}
    for family in [] if args.page else args.families.split(","):
        assert family in FAMILIES
        for name in args.targets.split(","):
            if f"{name}/{family}" in results["cells"]:
                continue
            reference = reference_samples(name, TARGETS[name](), results["reference"])
            results["floor"].setdefault(name, floor(reference))
            try:
                cell = run_cell(name, family, args.steps, reference)
            except advae.AdvaeError as error:
                cell = {"error": str(error)}
            results["cells"][f"{name}/{family}"] = cell
            write_json(RESULTS, results)
            distances = [round(seed["sliced"], 3) for seed in cell.get("seeds", [])]
            print(f"{name} {family} {distances} {cell.get('seconds', math.nan):.0f} s", flush=True)
            PAGE.write_text(make_page(results))
    PAGE.write_text(make_page(results))


if __name__ == "__main__":
    main()
