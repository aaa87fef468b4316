"""Long evaluations: parts that do not depend on each other, interruptions that leave no trace in the figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from advae.data import DataOptions, Split, load_data
from advae.evaluation import resumable as work
from advae.evaluation.eval_data import CHUNK, Observed, Part
from advae.evaluation.likelihood.ais import Annealing, ais, bdmc
from advae.evaluation.likelihood.bounds import iwae
from advae.evaluation.resumable import Work, fingerprint
from advae.model import LatentModel
from evaluation.toy import data_of, toy_model

CPU = torch.device("cpu")
OPTIONS = Annealing(chains=40, temperatures=12, leapfrogs=2)  # 51 images at a time


@pytest.fixture
def model() -> LatentModel:
    return toy_model(width=1.5)


@pytest.fixture
def observed(model: LatentModel) -> Observed:
    return Observed(data_of(model), limit=120)


@pytest.mark.parametrize("size", [1, 100, 256, 1000])
def test_observations_do_not_depend_on_how_many_are_taken_at_a_time(size: int) -> None:
    """All estimators must see the same draw of binary pixels under one seed, whatever their memory allows."""
    data = load_data(DataOptions(source="digits", protocol="binarise-dynamic"))
    observed = Observed(data, "train", limit=600)
    whole, parts = (list(observed.parts(CPU, n)) for n in (CHUNK, size))
    assert torch.equal(torch.cat([p.x for p in whole]), torch.cat([p.x for p in parts]))
    assert torch.equal(torch.cat([p.raw for p in whole]), torch.cat([p.raw for p in parts]))
    assert len({p.seed for p in parts}) == len(parts)


def test_several_processes_share_the_parts_and_find_the_same(
    observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part once, and each under the numbers it has when one process does all of them."""

    def compute(part: Part) -> dict[str, torch.Tensor]:
        return {"value": torch.randn(len(part.x)) + part.x.sum(1)}

    alone = observed.map(CPU, compute, size=50)["value"]
    shares: list[dict[int, dict[str, torch.Tensor]]] = []
    monkeypatch.setattr(Work, "world", 2)
    monkeypatch.setattr(Work, "gathered", lambda self, found: shares.append(found) or {0: found_first})
    found_first = {"value": torch.zeros(1)}
    for rank in range(2):
        monkeypatch.setattr(Work, "rank", rank)
        observed.map(CPU, compute, size=50)
    assert sorted(shares[0]) == [0, 100] and sorted(shares[1]) == [50]
    together = {**shares[0], **shares[1]}
    assert torch.equal(alone, torch.cat([together[start]["value"] for start in sorted(together)]))


class Stopped(Exception):
    """In place of a kill."""


def stopping(after: int) -> Callable[..., object]:
    """A stage that is killed after so many ticks."""
    left = [after]

    @contextmanager
    def stage(label: str, total: int) -> Iterator[Callable[[int], None]]:
        def tick(n: int) -> None:
            left[0] -= n
            if left[0] <= 0:
                raise Stopped

        yield tick

    return stage


@pytest.mark.parametrize("after", [5, 104, 110, 200, 240])
def test_an_interrupted_annealing_goes_on_to_the_same_figures(
    model: LatentModel, observed: Observed, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the pilot run, in the first chain of parts, between parts, in the last: bit for bit the same."""
    monkeypatch.setattr(work, "SECONDS", 0.0)
    unbroken = ais(model, observed, OPTIONS)
    with pytest.raises(Stopped):
        ais(model, observed, OPTIONS, work=Work(tmp_path, stopping(after), fingerprint(model)))  # type: ignore[arg-type]
    if after > 104:
        assert list(tmp_path.rglob("*"))
    again = ais(model, observed, OPTIONS, work=Work(tmp_path, model=fingerprint(model)))
    assert torch.equal(again.each["value"], unbroken.each["value"])
    assert torch.equal(again.each["acceptance"], unbroken.each["acceptance"])
    assert again == unbroken


def test_what_was_finished_is_not_done_again(model: LatentModel, observed: Observed, tmp_path: Path) -> None:
    kept = Work(tmp_path, model=fingerprint(model))
    first = bdmc(model, observed, OPTIONS, work=kept)
    ticks: list[int] = []

    @contextmanager
    def stage(label: str, total: int) -> Iterator[Callable[[int], None]]:
        yield ticks.append
        assert sum(ticks) == total  # the bar ends full
        ticks.clear()

    torch.manual_seed(123)
    second = bdmc(model, observed, OPTIONS, work=Work(tmp_path, stage, fingerprint(model)))
    assert list(first) == list(second)
    slots = sorted(tmp_path.rglob("*.done"))
    assert len(slots) == 6 and not list(tmp_path.rglob("*.state"))


def test_images_of_finished_parts_are_not_read_again(
    observed: Observed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them finished: nothing is read; with one lost, nothing but its own chunk is."""
    kept, read = Work(tmp_path), []
    whole = Observed(observed.data)
    raw = Split.raw
    monkeypatch.setattr(
        Split, "raw", lambda self, indices: read.append(int(indices[0])) or raw(self, indices)
    )

    def means() -> torch.Tensor:
        return whole.map(CPU, lambda part: {"value": part.x.mean(1)}, protocol={}, size=50, work=kept)[
            "value"
        ]

    first = means()
    assert read == [0, CHUNK]
    assert torch.equal(means(), first) and read == [0, CHUNK]
    next(tmp_path.rglob(f"part-{CHUNK:08d}.done")).unlink()
    assert torch.equal(means(), first) and read == [0, CHUNK, CHUNK]


def test_progress_is_told_of_every_transition(model: LatentModel, observed: Observed) -> None:
    """The total that a bar is given is what it gets, for every estimator."""
    seen: dict[str, list[int]] = {}

    @contextmanager
    def stage(label: str, total: int) -> Iterator[Callable[[int], None]]:
        told: list[int] = []
        yield told.append
        seen[label] = [total, sum(told)]

    watched = Work(stage=stage)
    ais(model, observed, OPTIONS, work=watched)
    bdmc(model, observed, OPTIONS, work=watched)
    iwae(model, observed, 3, work=watched)
    assert set(seen) == {"annealing", "annealing up", "annealing down", "iwae-3"}
    assert all(total == told > 0 for total, told in seen.values())


def test_unfinished_work_of_another_kind_is_not_taken_up(
    model: LatentModel, observed: Observed, tmp_path: Path
) -> None:
    """Another model, option, seed or number of images has other names; a file cut short is computed anew."""
    kept = Work(tmp_path, model=fingerprint(model))
    first = iwae(model, observed, 4, work=kept)
    with torch.no_grad():
        model.decoder.W.mul_(0.5)  # type: ignore[union-attr,operator]
    changed = Work(tmp_path, model=fingerprint(model))
    assert changed.model != kept.model
    assert iwae(model, observed, 4, work=changed) == iwae(model, observed, 4) != first
    assert iwae(model, observed, 5, work=changed) == iwae(model, observed, 5)
    for path in tmp_path.rglob("*.done"):
        path.write_bytes(path.read_bytes()[:40])
    assert iwae(model, observed, 4, work=changed) == iwae(model, observed, 4)
