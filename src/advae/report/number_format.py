"""Numbers and settings as a paper prints them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

LONGEST = 80  # characters of a setting that a table shows


def rounded(value: Any, stderr: Any = None, interval: Any = None) -> tuple[str, str]:
    """A value to the second significant digit of its standard error, and that error.

    Without an error it has the places of its interval, if it has one.

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
    places = _places(stderr)
    if places is not None:
        return _fixed(number, places), _fixed(float(stderr), places)
    places = _interval_places(interval)
    return (_significant(number) if places is None else _fixed(number, places)), ""


def interval_text(interval: Any, stderr: Any = None) -> str:
    """A confidence interval, to the places of the standard error, or of a quarter of its width.

    >>> interval_text([-84.5612, -83.7089], 0.213), interval_text((0.00121, 0.00163)), interval_text(None)
    ('[−84.56, −83.71]', '[0.00121, 0.00163]', '')
    """
    found = ends(interval)
    if found is None:
        return ""
    places = _places(stderr)
    places = _interval_places(interval) if places is None else places
    texts = [_significant(end) if places is None else _fixed(end, places) for end in found]
    return f"[{', '.join(texts)}]"


def ends(interval: Any) -> tuple[float, float] | None:
    """Both ends of an interval; None where it has not two that are finite."""
    given = [_number(end) for end in interval] if isinstance(interval, (list, tuple)) else []
    finite = [end for end in given if end is not None and math.isfinite(end)]
    return (finite[0], finite[1]) if len(finite) == len(given) == 2 else None


def _places(error: Any) -> int | None:
    """Decimal places up to the second significant digit of an error; None where there is no error."""
    number = _number(error)
    if number is None or not math.isfinite(number) or number <= 0:
        return None
    return min(6, max(0, 1 - math.floor(math.log10(number))))


def _interval_places(interval: Any) -> int | None:
    found = ends(interval)
    return None if found is None else _places((found[1] - found[0]) / 4)


def _fixed(number: float, places: int) -> str:
    return f"{number:,.{places}f}".replace("-", "−")


def _significant(number: float) -> str:
    return f"{number:,.4g}".replace("-", "−") if abs(number) < 1e4 else grouped(round(number))


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
