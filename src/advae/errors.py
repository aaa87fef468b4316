"""The one exception family: what is wrong, what was given, what was expected, how to mend it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class AdvaeError(Exception):
    """An error made for people.

    Args:
        what: one sentence that says what is wrong.
        given: what was found.
        expected: what would have been right.
        remedy: what to do about it.
    """

    exit_code = 2

    def __init__(
        self,
        what: str,
        *,
        given: object = None,
        expected: object = None,
        remedy: str | None = None,
    ) -> None:
        self.what, self.given, self.expected, self.remedy = what, given, expected, remedy
        lines = [what]
        for label, value in (("given", given), ("expected", expected), ("remedy", remedy)):
            if value is not None:
                lines.append(f"  {label + ':':<9} {value}")
        super().__init__("\n".join(lines))


class ConfigError(AdvaeError):
    """An option, recipe or component that is unknown or has a wrong value."""


class DataError(AdvaeError):
    """Data that cannot be read, or that do not fit what is asked of them."""


class CheckpointError(AdvaeError):
    """A run directory, checkpoint or saved model that cannot be used."""


class NoDensityError(AdvaeError):
    """A log density was asked of a distribution that is known by its samples only."""


class UnsupportedError(AdvaeError):
    """Something was asked of a model that its kind cannot do."""


class NotFiniteError(AdvaeError):
    """A loss or gradient that is not finite; the weights were not touched."""

    exit_code = 1


def nearest(name: str, known: Iterable[str]) -> str:
    """A remedy for a misspelt name: the nearest known one, and all of them.

    >>> nearest("asvae-digit", ["asvae-digits", "vae-digits"])
    "did you mean 'asvae-digits'? Known: asvae-digits, vae-digits"
    """
    known = list(known)
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}Known: {', '.join(known)}"
