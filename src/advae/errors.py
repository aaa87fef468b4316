"""Exceptions that say what is wrong, what was expected and how to fix it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from advae.renamed_options import current_name


class AdvaeError(Exception):
    """An error whose message is written for the user.

    Args:
        what: one sentence that says what is wrong.
        given: the offending value.
        expected: what a valid value looks like.
        fix: what the user can do.

    >>> print(AdvaeError("Learning rate is negative.", given=-1, expected="> 0", fix="set train.lr"))
    Learning rate is negative.
      given:    -1
      expected: > 0
      fix:      set train.lr
    """

    exit_code = 2

    def __init__(
        self,
        what: str,
        *,
        given: object = None,
        expected: object = None,
        fix: str | None = None,
    ) -> None:
        self.what, self.given, self.expected, self.fix = what, given, expected, fix
        lines = [what]
        for label, value in (("given", given), ("expected", expected), ("fix", fix)):
            if value is not None:
                lines.append(f"  {label + ':':<9} {value}")
        super().__init__("\n".join(lines))


class ConfigError(AdvaeError):
    """An option, recipe or component is unknown or has an invalid value."""


class DataError(AdvaeError):
    """Data cannot be read, or do not fit the model or the metric."""


class CheckpointError(AdvaeError):
    """A run directory, checkpoint or saved model cannot be used."""


class WriteError(AdvaeError):
    """A file cannot be written: the disk is full, broken or read-only, or permission is missing."""


class NoDensityError(AdvaeError):
    """A log density was requested of an implicit distribution."""


class UnsupportedError(AdvaeError):
    """The model does not support the requested operation."""


class NotFiniteError(AdvaeError):
    """A loss or gradient is not finite; the weights were not updated."""

    exit_code = 1


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a fix for a misspelled or former name: the closest known name, and all of them.

    >>> nearest("asvae-digit", ["asvae-digits", "vae-digits"])
    "did you mean 'asvae-digits'? Known: asvae-digits, vae-digits"
    """
    known = list(known)
    match = current_name(name, known) or next(iter(get_close_matches(name, known, n=1, cutoff=0.5)), None)
    hint = f"did you mean {match!r}? " if match else ""
    return f"{hint}Known: {', '.join(known)}"


def first_line(error: BaseException) -> str:
    """Return the type of a foreign exception and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
