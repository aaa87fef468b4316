"""How long the implicit family takes beside a normal, and beside Hamiltonian chains of its accuracy.

    python benchmarks/inference_time.py [--targets a,b]

In one run and on one core: one fit of each family, and chains that are made longer until their draws are as near to the
long chains of results/inference.json (``inference.py`` makes them) as the implicit family's are. Near: the sliced
Wasserstein distance of 4,000 draws, in standard deviations. Written to results/inference-time.json and
results/inference-time.md.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import torch
from inference_page import markdown
from inference_targets import TARGETS
from turns import machine, where

import advae
from advae.inference.hmc_reference import HMC, hmc
from advae.inference.parameters import Space
from advae.inference.target import Target
from advae.io import write_json
from inference import DRAWS, RESULTS, measured, reference

PATH = RESULTS.with_name("inference-time.json")
FAMILIES = ("full-rank", "flow", "implicit")
CHAINS = 64
LENGTHS = [
    (int(25 * 2**i), round(DRAWS / CHAINS), max(1, 2**i // 4)) for i in range(7)
]  # warm-up, draws, thinning


def fitted(name: str, family: str, truth: torch.Tensor) -> dict[str, float]:
    """CPU seconds of one fit, and how near it is."""
    example, began = TARGETS[name](), time.process_time()
    posterior = advae.infer(example.log_joint, example.parameters, family=family, fits=1, seed=0, quiet=True)
    z = posterior.unconstrained(DRAWS)[0]
    seconds = time.process_time() - began
    return {"seconds": seconds, "sliced": measured(z, truth, example, Space(example.parameters))["sliced"]}


def chains(name: str, truth: torch.Tensor, near: float) -> dict[str, float]:
    """The shortest chains that are as near; the longest, if none are."""
    example = TARGETS[name]()
    space = Space(example.parameters)
    for warmup, draws, thin in LENGTHS:
        began = time.process_time()
        z = hmc(Target(example.log_joint, space), HMC(CHAINS, warmup, draws, thin), 2).z.flatten(0, 1)
        found = {"seconds": time.process_time() - began, "warmup": warmup, "transitions": draws * thin}
        found["sliced"] = measured(z, truth, example, space)["sliced"]
        if found["sliced"] <= near:
            break
    return found


def page(record: dict[str, Any]) -> str:
    """The results as Markdown."""
    rows = []
    for name, found in record["targets"].items():
        cells = [f"{found[f]['seconds']:.1f} s, {found[f]['sliced']:.3f}" for f in FAMILIES]
        c = found["chains"]
        length = f"{c['warmup']} + {c['transitions']}"
        short = c["sliced"] <= found["implicit"]["sliced"]
        cells += [f"{c['seconds']:.1f} s, {c['sliced']:.3f}", length if short else f"{length}: not as near"]
        rows.append([name, *cells])
    head = ["target", *FAMILIES, f"{CHAINS} chains of HMC", "warm-up + transitions"]
    text = (__doc__ or "").split("\n\n", 2)[2].strip()
    return f"# Time of inference\n\n{text}\n\n{machine(record)} CPU seconds, distance:\n\n{markdown(head, rows)}\n"


def main() -> None:
    """Measure and write."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--targets", default="rosenbrock,torus,unknown-scale,schools-paper,schools,logistic")
    args = made.parse_args()
    torch.set_num_threads(1)
    known = json.loads(RESULTS.read_text())["reference"]
    record: dict[str, Any] = {"targets": {}} | where(torch.device("cpu"))
    for name in args.targets.split(","):
        truth = reference(name, TARGETS[name](), known)
        found = {family: fitted(name, family, truth) for family in FAMILIES}
        record["targets"][name] = found | {"chains": chains(name, truth, found["implicit"]["sliced"])}
        print(name, record["targets"][name], flush=True)
        write_json(PATH, record)
        PATH.with_suffix(".md").write_text(page(record))


if __name__ == "__main__":
    main()
