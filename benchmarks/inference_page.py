"""The page of ``inference.py``, from what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from inference_targets import TARGETS

FAMILIES = ("mean-field", "full-rank", "flow", "noise-basis", "implicit")
Cell = dict[str, Any]
NEAR = 1.1  # times the floor: not to be told from it

HEAD = [
    "target",
    "family",
    "sliced W₁",
    "MMD²",
    "mean",
    "sd, least",
    "sd, greatest",
    "modes",
    "bound − evidence",
    "CPU s",
    "failed",
    "flagged",
]


def spread(values: list[float], worst: Callable[..., float], form: str) -> str:
    """Median over seeds [worst]."""
    return f"{statistics.median(values):{form}} [{worst(values):{form}}]"


def row(name: str, family: str, c: Cell) -> list[str]:
    """One cell as a row."""
    if "error" in c:
        return [name, family, f"stopped: {c['error'].splitlines()[0]}", *[""] * (len(HEAD) - 3)]
    seeds = c["seeds"]

    def of(key: str) -> list[float]:
        return [s[key] for s in seeds]

    modes = f"{min(of('modes'))} to {max(of('modes'))} of {seeds[0]['of']}" if "modes" in seeds[0] else ""
    value, error, _ = c["evidence"]
    gaps = [b - value for b in c["bounds"]]
    return [
        name,
        family,
        spread(of("sliced"), max, ".3f"),
        spread(of("mmd"), max, ".4f"),
        spread(of("mean"), max, ".2f"),
        spread(of("sd_low"), min, ".2f"),
        spread(of("sd_high"), max, ".2f"),
        modes,
        f"{statistics.median(gaps):+.2f} ± {error:.2f}",
        f"{c['seconds']:.0f}",
        f"{sum(of('failed')):.0f} of {len(seeds)}",
        ", ".join(c["warned"]) or "no",
    ]


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def page(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    cells, names = results["cells"], list(results["reference"])
    rows = [row(n, f, cells[f"{n}/{f}"]) for n in names for f in FAMILIES if f"{n}/{f}" in cells]
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
    good = {k: c for k, c in cells.items() if "error" not in c}
    return PAGE.format(
        table=markdown(HEAD, rows),
        chains=markdown(
            ["target", "d", "draws", "R-hat", "ESS", "acceptance", "CPU s", "sliced floor", "MMD² floor"],
            chains,
        ),
        verdict=verdict(good, names, results["floor"]),
        done=len(cells),
        all=len(FAMILIES) * len(TARGETS),
    )


def verdict(cells: dict[str, Cell], names: list[str], floors: dict[str, Any]) -> str:
    """Whether the implicit family beats the full-rank normal, and whether any failure went unflagged."""
    lines = []
    for n in names:
        if f"{n}/implicit" in cells and f"{n}/full-rank" in cells:
            mine, normal = (
                statistics.median(s["sliced"] for s in cells[f"{n}/{f}"]["seeds"])
                for f in ("implicit", "full-rank")
            )
            said = "better" if mine < normal else "not better"
            if max(mine, normal) < NEAR * floors[n]["sliced"]:
                said = "level, both as near as two parts of the chain are"
            lines.append(f"- {n}: implicit {mine:.3f}, full-rank {normal:.3f}: {said}.")
    failed = [(k, c) for k, c in cells.items() if any(s["failed"] for s in c["seeds"])]
    silent = [k for k, c in failed if not c["flagged"]]
    seeds = sum(sum(s["failed"] for s in c["seeds"]) for _, c in failed)
    alarms = [k for k, c in cells.items() if c["flagged"] and not any(s["failed"] for s in c["seeds"])]
    lines.append(
        f"- Failed seeds: {seeds}, in {len(failed)} of {len(cells)} cells; cells with a failed seed and no warning:"
        f" {', '.join(silent) or 'none'}. Cells with a warning and no failed seed: {', '.join(alarms) or 'none'}."
    )
    return "\n".join(lines)


PAGE = """# Black-box posteriors, against long Hamiltonian chains

Made by `python benchmarks/inference.py`; {done} of {all} cells. Median over five seeds [the worst]. The five seeds of a
cell are five independent fits of one call, run in one batch: R-hat and the spread of bounds are between them.

{table}

- *Sliced W₁*, *MMD²*: of 4,000 (1,000) unconstrained draws, in the chain's standard deviations. *mean*: the largest
  error of a mean in standard deviations; *sd*: the least and the greatest ratio of a standard deviation to the chain's.
- *Modes*: regions that hold at least a fifth of their share of the chain's draws.
- *Bound − evidence*: the median bound less the evidence by annealing, ± its error. For implicit and noise-basis the
  bound is the critic's opinion.
- *CPU s*: processor seconds of all five fits on one core. *Failed*: seeds with a mean off by more than a third of a
  standard deviation, a standard deviation not within 0.6 and 1.6 of the chain's, or a mode missing.
- *Flagged*: the checks that warned, of the whole call.

{verdict}

## The chains

{chains}

64 chains of 1,000 transitions of warm-up and 2,000 more, every eighth kept; the floors are what two parts of one
chain's draws differ by. The chain of schools-centred is that of schools, in its coordinates; centred chains do not mix.
"""
