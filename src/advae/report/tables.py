"""Numbers as a paper prints them, and the tables of estimates: each with its kind and its protocol."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ADVERSARIAL = "adversarial estimate"
LONGEST = 80  # characters of a setting that a table shows

MEANINGS = {
    "lower bound": "in expectation not above log p(x)",
    "upper bound": "in expectation not below the true figure (bits/dim are those of −log p(x))",
    "unbiased": "its expectation is the quantity itself",
    "exact": "computed in closed form",
    "error": "a distance to the data; lower is better",
    ADVERSARIAL: "holds a critic's own estimate of a log ratio, which errs low when the critic is weak: it"
    " can exceed log p(x), is not a bound, and is not to be compared with bounds",
}


@dataclass(frozen=True)
class Row:
    """One estimate, ready for print; ``own`` is what its protocol has that not all rows share."""

    name: str
    value: str
    stderr: str
    unit: str
    kind: str
    n: str
    own: str
    adversarial: bool


def estimate_rows(estimates: Sequence[Mapping[str, Any]]) -> tuple[list[Row], str]:
    """Rows of a table, and the part of the protocol that is common to all of them."""
    protocols = [flat(estimate.get("protocol") or {}) for estimate in estimates]
    common = shared(protocols)
    rows = []
    for estimate, protocol in zip(estimates, protocols, strict=True):
        value, stderr = rounded(estimate.get("value"), estimate.get("stderr"))
        own = {key: text for key, text in protocol.items() if key not in common}
        rows.append(
            Row(
                name=str(estimate.get("name", "")),
                value=value,
                stderr=stderr,
                unit=str(estimate.get("unit") or ""),
                kind=kind_text(estimate.get("kind")),
                n=grouped(estimate.get("n")),
                own=listed(own),
                adversarial=estimate.get("kind") == ADVERSARIAL,
            )
        )
    return rows, listed(common)


def kind_text(kind: object) -> str:
    """The kind of an estimate; an adversarial one says what it is not."""
    return f"{kind}: not a bound" if kind == ADVERSARIAL else str(kind or "unknown kind")


def meanings(estimates: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """What the kinds that occur mean."""
    kinds = {estimate.get("kind") for estimate in estimates}
    return [(kind, text) for kind, text in MEANINGS.items() if kind in kinds]


def rounded(value: Any, stderr: Any = None) -> tuple[str, str]:
    """A value to the second significant digit of its standard error, and that error.

    >>> rounded(-84.1234, 0.213)
    ('−84.12', '0.21')
    >>> rounded(float("nan")), rounded(3.14159, None), rounded(None)
    (('not finite', ''), ('3.142', ''), ('—', ''))
    """
    number = _number(value)
    if number is None:
        return "—", ""
    if not math.isfinite(number):
        return "not finite", ""
    error = _number(stderr)
    if error is None or not math.isfinite(error) or error <= 0:
        return f"{number:,.4g}".replace("-", "−") if abs(number) < 1e4 else grouped(round(number)), ""
    places = min(6, max(0, 1 - math.floor(math.log10(error))))
    return f"{number:,.{places}f}".replace("-", "−"), f"{error:,.{places}f}"


def grouped(count: Any) -> str:
    """
    >>> grouped(10000), grouped(None)
    ('10,000', '—')
    """
    number = _number(count)
    if number is None or not math.isfinite(number):
        return "—"
    return f"{number:,.0f}".replace("-", "−")


def duration(seconds: float) -> str:
    """
    >>> duration(42.3), duration(125), duration(7300)
    ('42 s', '2 min 5 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested mapping as dotted names and their text; what is None or empty is left out.

    >>> flat({"data": {"name": "digits", "shape": [1, 8, 8]}, "chains": None})
    {'data.name': 'digits', 'data.shape': '1 × 8 × 8'}
    """
    found: dict[str, str] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found |= flat(value, f"{name}.")
        elif isinstance(value, (list, tuple)):
            separator = " × " if key == "shape" or str(key).endswith("_shape") else ", "
            found |= {name: separator.join(_text(item) for item in value)} if value else {}
        elif isinstance(value, bool):
            found[name] = "yes" if value else "no"
        elif value is not None and value != "":
            found[name] = _text(value)
    return found


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def shared(mappings: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The entries that all mappings have alike."""
    first, *others = mappings or [{}]
    return {key: text for key, text in first.items() if all(m.get(key) == text for m in others)}


def listed(items: Mapping[str, str]) -> str:
    """
    >>> listed({"split": "test", "k": "64"})
    'split test · k 64'
    """
    short = {key: text if len(text) <= LONGEST else text[: LONGEST - 1] + "…" for key, text in items.items()}
    return " · ".join(f"{key} {text}" for key, text in short.items())


def component(spec: object) -> str:
    """A part of a model as one reads it: its name, and its options in brackets.

    >>> component({"name": "mlp", "hidden": [256, 256], "dropout": 0.0})
    'mlp (hidden 256, 256 · dropout 0)'
    """
    if not isinstance(spec, Mapping):
        return str(spec)
    options = listed(flat({key: value for key, value in spec.items() if key != "name"}))
    return f"{spec.get('name', 'unnamed')} ({options})" if options else str(spec.get("name", "unnamed"))


def _number(value: Any) -> float | None:
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None
