"""A posterior: what was fitted, with what says whether to trust it, and in the form that other tools read."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from advae.evaluation.estimate import Estimates
from advae.evaluation.resumable import Ticks, unseen
from advae.inference.diagnostics import checks
from advae.inference.export import as_arviz, groups
from advae.inference.posterior import Fitted
from advae.inference.summary import summary


class Posterior(Fitted):
    """``F`` fits of q to one target, kept apart like chains."""

    _checked: Estimates | None = None

    def check(self, *, stage: Callable[[str, int], AbstractContextManager[Ticks]] = unseen) -> Estimates:
        """What says whether to trust it: figures, and a plain sentence on each in ``remarks``, the verdict first."""
        if self._checked is None:
            self._checked = checks(self, stage=stage)
        return self._checked

    def summary(self, n: int = 4000) -> dict[str, Any]:
        """Mean, standard deviation, quantiles and R-hat of every number of every parameter."""
        return summary(self, n)

    def to_arviz(self, n: int = 4000) -> Any:
        """Draws as ArviZ reads them: ``InferenceData`` before ArviZ 1, a ``DataTree`` from it on.

        Raises:
            ConfigError: ArviZ is not installed.
        """
        return as_arviz(groups(self, n))
