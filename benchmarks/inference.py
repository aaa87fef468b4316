"""Black-box posteriors against long Hamiltonian chains: the targets of ``inference_targets.py`` times five families.

    python benchmarks/inference.py [--targets a,b] [--families a,b] [--steps N] [--page]

A cell of the table is one call of ``advae.infer`` with five fits in one batch: these are the five seeds, independent in
their weights, their starts and their draws, and the checks are those that a user gets of that call. Each cell is
written to results/inference.json as soon as it is known, and a cell that is there is not computed again: interrupted,
the same command goes on. ``--page`` only writes results/inference.md from what is there.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from inference_page import page
from inference_targets import TARGETS, Example
from torch import Tensor

import advae
from advae.inference.hmc_reference import HMC, hmc
from advae.inference.infer_options import FAMILIES, InferOptions
from advae.inference.parameters import Space
from advae.inference.target import Target
from advae.io import write_json
from sliced_wasserstein import sliced_wasserstein
from advae.metrics.two_sample import mmd_test

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "results" / "inference.json", ROOT / "results" / "inference.md"
SEEDS, DRAWS = 5, 4000
LONG = HMC(chains=64, warmup=1000, draws=250, thin=8)
# A seed has failed if a reader of its draws would be misled by a third of a standard deviation somewhere, or by half
# its width, or if a mode is missing.
MEAN, SD, SHARE = 1 / 3, (0.6, 1.6), 0.2


def reference(name: str, example: Example, known: dict[str, Any]) -> Tensor:
    """Draws ``[n, d]`` of the long chain, kept in runs/; its seconds and diagnostics go to ``known``."""
    path = ROOT / "runs" / "inference-reference" / f"{name}.npy"
    space = Space(example.parameters)
    if path.exists() and name in known:
        import numpy as np

        return torch.from_numpy(np.load(path, allow_pickle=False))
    began, target = time.process_time(), Target(example.log_joint, space)
    if (
        name == "schools-centred"
    ):  # the same posterior as the other schools', whose chains mix: theta = mu + tau eta
        plain = TARGETS["schools"]()
        found = hmc(Target(plain.log_joint, Space(plain.parameters)), LONG, 1)
        v = Space(plain.parameters).constrained(found.z.flatten(0, 1))[0]
        z = _centred(v)
    else:
        found = hmc(target, LONG, 1)
        z = found.z.flatten(0, 1)
    known[name] = {
        "seconds": time.process_time() - began,
        "rhat": found.rhat,
        "ess": found.ess,
        "acceptance": found.acceptance,
        "draws": len(z),
        "d": z.shape[1],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    import numpy as np

    np.save(path, z.numpy())
    return z


def _centred(v: dict[str, Tensor]) -> Tensor:
    theta = v["mu"][:, None] + v["tau"][:, None] * v["eta"]
    return torch.cat([v["mu"][:, None], v["tau"].log()[:, None], theta], 1)


def measured(z: Tensor, truth: Tensor, example: Example, space: Space) -> dict[str, Any]:
    """What draws ``z [n, d]`` of one fit differ by from those of the chain, in the chain's standard deviations."""
    mean, sd = truth.mean(0), truth.std(0)
    other = truth[torch.randperm(len(truth), generator=torch.Generator().manual_seed(0))[: len(z)]]
    a, b = (z - mean) / sd, (other - mean) / sd
    off = (a.mean(0) - (truth.mean(0) - mean) / sd).abs()
    ratio = z.std(0) / sd
    found = {
        "sliced": sliced_wasserstein(a, b),
        "mmd": mmd_test(a[:1000], b[:1000], permutations=19).value,
        "mean": float(off.max()),
        "sd_low": float(ratio.min()),
        "sd_high": float(ratio.max()),
    }
    if example.region is not None:
        mine, theirs = (example.region(space.constrained(x)[0]) for x in (z, truth))
        modes = int(theirs.max()) + 1
        shares = [
            float((mine == m).float().mean()) / float((theirs == m).float().mean()) for m in range(modes)
        ]
        found |= {"modes": sum(s > SHARE for s in shares), "of": modes}
    found["failed"] = bool(
        found["mean"] > MEAN
        or not SD[0] < found["sd_low"] <= found["sd_high"] < SD[1]
        or found.get("modes", 1) < found.get("of", 1)
    )
    return found


def cell(name: str, family: str, steps: int, truth: Tensor) -> dict[str, Any]:
    """One call of ``infer``, judged."""
    example = TARGETS[name]()
    space = Space(example.parameters)
    began, clock = time.process_time(), time.monotonic()
    posterior = advae.infer(
        example.log_joint, example.parameters, family=family, fits=SEEDS, steps=steps, seed=0, quiet=True
    )
    seconds, wall = time.process_time() - began, time.monotonic() - clock
    z = posterior.unconstrained(DRAWS)
    checked = posterior.check()
    evidence = posterior.log_evidence()
    values = {e.name: e.value for e in checked}
    return {
        "seconds": seconds,
        "wall": wall,
        "steps": steps,
        "seeds": [measured(one, truth, example, space) for one in z],
        "bounds": [b.value for b in posterior.bounds()],
        "evidence": [evidence.value, evidence.stderr, evidence.protocol["ess"]],
        "rhat": values.get("R-hat between fits"),
        "flagged": any(r.warning for r in checked.remarks),
        "warned": [r.about for r in checked.remarks if r.warning and r.about != "posterior"],
        "remarks": [r.text for r in checked.remarks],
    }


def floor(truth: Tensor) -> dict[str, float]:
    """What two parts of the chain differ by."""
    order = torch.randperm(len(truth), generator=torch.Generator().manual_seed(1))
    a, b = truth[order[:DRAWS]], truth[order[DRAWS : 2 * DRAWS]]
    scaled = [(x - truth.mean(0)) / truth.std(0) for x in (a, b)]
    return {
        "sliced": sliced_wasserstein(*scaled),
        "mmd": mmd_test(scaled[0][:1000], scaled[1][:1000], permutations=19).value,
    }


def main() -> None:
    """Compute what is missing, and write the page."""
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
    results["versions"] = {"torch": torch.__version__, "advae": advae.__version__}
    for family in [] if args.page else args.families.split(","):
        assert family in FAMILIES
        for name in args.targets.split(","):
            if f"{name}/{family}" in results["cells"]:
                continue
            truth = reference(name, TARGETS[name](), results["reference"])
            results["floor"].setdefault(name, floor(truth))
            try:
                found = cell(name, family, args.steps, truth)
            except advae.AdvaeError as error:
                found = {"error": str(error)}
            results["cells"][f"{name}/{family}"] = found
            write_json(RESULTS, results)
            sliced = [s["sliced"] for s in found.get("seeds", [])]
            print(
                name,
                family,
                [round(s, 3) for s in sliced],
                round(found.get("seconds", math.nan)),
                "s",
                flush=True,
            )
            PAGE.write_text(page(results))
    PAGE.write_text(page(results))


if __name__ == "__main__":
    main()
