"""Markdown page of the results of ``inference.py``."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from inference_targets import TARGETS

FAMILIES = ("mean-field", "full-rank", "flow", "noise-basis", "implicit")
Cell = dict[str, Any]
MAX_FLOOR_RATIO = 1.1  # distances up to this multiple of the floor are indistinguishable from it

HEAD = [
    "target",
    "family",
    "sliced W₁",
    "MMD²",
    "mean",
    "smallest sd",
    "largest sd",
    "modes",
    "ELBO − evidence",
    "CPU s",
    "failed",
    "flagged",
]


def median_and_worst(values: list[float], worst: Callable[..., float], spec: str) -> str:
    """Return the median over seeds, and the worst in brackets."""
    return f"{statistics.median(values):{spec}} [{worst(values):{spec}}]"


def make_row(name: str, family: str, cell: Cell) -> list[str]:
    """Return one cell of the benchmark as a row of the table."""
    if "error" in cell:
        return [name, family, f"stopped: {cell['error'].splitlines()[0]}", *[""] * (len(HEAD) - 3)]
    seeds = cell["seeds"]

    def of(key: str) -> list[float]:
        return [s[key] for s in seeds]

    modes = f"{min(of('modes'))} to {max(of('modes'))} of {seeds[0]['of']}" if "modes" in seeds[0] else ""
    value, error, _ = cell["evidence"]
    gaps = [b - value for b in cell["bounds"]]
    return [
        name,
        family,
        median_and_worst(of("sliced"), max, ".3f"),
        median_and_worst(of("mmd"), max, ".4f"),
        median_and_worst(of("mean"), max, ".2f"),
        median_and_worst(of("sd_low"), min, ".2f"),
        median_and_worst(of("sd_high"), max, ".2f"),
        modes,
        f"{statistics.median(gaps):+.2f} ± {error:.2f}",
        f"{cell['seconds']:.0f}",
        f"{sum(of('failed')):.0f} of {len(seeds)}",
        ", ".join(cell["warned"]) or "no",
    ]


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def make_page(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    cells, names = results["cells"], list(results["reference"])
    rows = [make_row(n, f, cells[f"{n}/{f}"]) for n in names for f in FAMILIES if f"{n}/{f}" in cells]
    chains = [
        [
            n,
            str(r["d"]),
            f"{r['draws']:,}",
            f"{r['rhat']:.3f}",
            f"{r['ess']:,.0f}",
            f"{r['acceptance']:.2f}",
            f"{r['seconds']:.0f}",
            f"{results['floor'][n]['sliced']:.3f}",
            f"{results['floor'][n]['mmd']:.4f}",
        ]
        for n, r in results["reference"].items()
    ]
    finished = {k: c for k, c in cells.items() if "error" not in c}
    return PAGE.format(
        table=markdown(HEAD, rows),
        chains=markdown(
            ["target", "d", "samples", "R-hat", "ESS", "acceptance", "CPU s", "sliced floor", "MMD² floor"],
            chains,
        ),
        summary=summarize(finished, names, results["floor"]),
        done=len(cells),
        all=len(FAMILIES) * len(TARGETS),
    )


def summarize(cells: dict[str, Cell], names: list[str], floors: dict[str, Any]) -> str:
    """Compare the implicit family with the full-rank normal, and list failures without a warning."""
    lines = []
    for n in names:
        if f"{n}/implicit" in cells and f"{n}/full-rank" in cells:
            implicit, normal = (
                statistics.median(s["sliced"] for s in cells[f"{n}/{f}"]["seeds"])
                for f in ("implicit", "full-rank")
            )
            comparison = "better" if implicit < normal else "not better"
            if max(implicit, normal) < MAX_FLOOR_RATIO * floors[n]["sliced"]:
                comparison = "equal, both at the floor"
            lines.append(f"- {n}: implicit {implicit:.3f}, full-rank {normal:.3f}: {comparison}.")
    failed = [(k, c) for k, c in cells.items() if any(s["failed"] for s in c["seeds"])]
    unflagged = [k for k, c in failed if not c["flagged"]]
    seeds = sum(sum(s["failed"] for s in c["seeds"]) for _, c in failed)
    false_alarms = [k for k, c in cells.items() if c["flagged"] and not any(s["failed"] for s in c["seeds"])]
    lines.append(
        f"- Failed seeds: {seeds}, in {len(failed)} of {len(cells)} cells; cells with a failed seed but no warning:"
        f" {', '.join(unflagged) or 'none'}. Cells with a warning and no failed seed:"
        f" {', '.join(false_alarms) or 'none'}."
    )
    return "\n".join(lines)


PAGE = """# Black-box posteriors, against long Hamiltonian chains

Made by `python benchmarks/inference.py`; {done} of {all} cells. Median over five seeds [worst]. The five seeds of a
cell are five independent fits of one call, run in one batch: R-hat and the range of ELBOs are between them.

{table}

- *Sliced W₁*, *MMD²*: of 4,000 (1,000) unconstrained samples, in the chain's standard deviations. *mean*: the largest
  error of a mean in standard deviations; *sd*: the smallest and largest ratio of a standard deviation to the chain's.
- *Modes*: regions that have at least a fifth of their share of the chain's samples.
- *ELBO − evidence*: the median ELBO minus the evidence by annealing, ± its standard error. For implicit and noise-basis
  the ELBO is an adversarial estimate.
- *CPU s*: processor seconds of all five fits on one core. *Failed*: seeds with a mean off by more than a third of a
  standard deviation, a standard deviation not within 0.6 and 1.6 of the chain's, or a mode missing.
- *Flagged*: the diagnostics of the call that warned.

{summary}

## The chains

{chains}

64 chains with 1,000 transitions of warm-up and 2,000 more, every eighth kept; the floors are distances between two
parts of a chain's samples. The chain of schools-centred is that of schools, in its coordinates; centered chains do not
mix.
"""
