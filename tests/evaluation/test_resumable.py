"""Long evaluations: parts that do not depend on each other, interruptions that leave no trace in the figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from advae.data import DataOptions, Split, load_data
from advae.evaluation import resumable
from advae.evaluation.eval_config import AISConfig
from advae.evaluation.eval_data import CHUNK_SIZE, Batch, EvalData
from advae.evaluation.likelihood.ais import ais
from advae.evaluation.likelihood.bdmc import bdmc
from advae.evaluation.likelihood.bounds import iwae
from advae.evaluation.resumable import Runner, model_fingerprint
from advae.model import LatentModel
from evaluation.toy import data_of, toy_model

CPU = torch.device("cpu")
OPTIONS = AISConfig(chains=40, temperatures=12, leapfrog_steps=2)  # 51 images at a time


@pytest.fixture
def model() -> LatentModel:
    return toy_model(width=1.5)


@pytest.fixture
def eval_data(model: LatentModel) -> EvalData:
    return EvalData(data_of(model), limit=120)


@pytest.mark.parametrize("size", [1, 100, 256, 1000])
def test_observations_do_not_depend_on_how_many_are_taken_at_a_time(size: int) -> None:
    """All estimators must see the same draw of binary pixels under one seed, whatever their memory allows."""
    data = load_data(DataOptions(source="digits", preprocessing="binarize-dynamic"))
    eval_data = EvalData(data, "train", limit=600)
    whole, parts = (list(eval_data.batches(CPU, n)) for n in (CHUNK_SIZE, size))
    assert torch.equal(torch.cat([p.x for p in whole]), torch.cat([p.x for p in parts]))
    assert torch.equal(torch.cat([p.raw for p in whole]), torch.cat([p.raw for p in parts]))
    assert len({p.seed for p in parts}) == len(parts)


def test_several_processes_share_the_parts_and_find_the_same(
    eval_data: EvalData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part once, and each under the numbers it has when one process does all of them."""

    def compute(part: Batch) -> dict[str, torch.Tensor]:
        return {"value": torch.randn(len(part.x)) + part.x.sum(1)}

    alone = eval_data.map(CPU, compute, size=50)["value"]
    shares: list[dict[int, dict[str, torch.Tensor]]] = []
    monkeypatch.setattr(Runner, "world_size", 2)
    monkeypatch.setattr(Runner, "_gather", lambda self, result: shares.append(result) or {0: first_result})
    first_result = {"value": torch.zeros(1)}
    for rank in range(2):
        monkeypatch.setattr(Runner, "rank", rank)
        eval_data.map(CPU, compute, size=50)
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
    model: LatentModel, eval_data: EvalData, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the pilot run, in the first chain of parts, between parts, in the last: bit for bit the same."""
    monkeypatch.setattr(resumable, "SECONDS_BETWEEN_SAVES", 0.0)
    unbroken = ais(model, eval_data, OPTIONS)
    with pytest.raises(Stopped):
        ais(model, eval_data, OPTIONS, runner=Runner(tmp_path, stopping(after), model_fingerprint(model)))  # type: ignore[arg-type]
    if after > 104:
        assert list(tmp_path.rglob("*"))
    again = ais(model, eval_data, OPTIONS, runner=Runner(tmp_path, fingerprint=model_fingerprint(model)))
    assert torch.equal(again.per_example["value"], unbroken.per_example["value"])
    assert torch.equal(again.per_example["acceptance"], unbroken.per_example["acceptance"])
    assert again == unbroken


def test_what_was_finished_is_not_done_again(model: LatentModel, eval_data: EvalData, tmp_path: Path) -> None:
    kept = Runner(tmp_path, fingerprint=model_fingerprint(model))
    first = bdmc(model, eval_data, OPTIONS, runner=kept)
    ticks: list[int] = []

    @contextmanager
    def stage(label: str, total: int) -> Iterator[Callable[[int], None]]:
        yield ticks.append
        assert sum(ticks) == total  # the bar ends full
        ticks.clear()

    torch.manual_seed(123)
    second = bdmc(model, eval_data, OPTIONS, runner=Runner(tmp_path, stage, model_fingerprint(model)))
    assert list(first) == list(second)
    slots = sorted(tmp_path.rglob("*.done"))
    assert len(slots) == 6 and not list(tmp_path.rglob("*.state"))


def test_images_of_finished_parts_are_not_read_again(
    eval_data: EvalData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them finished: nothing is read; with one lost, nothing but its own chunk is."""
    kept, read = Runner(tmp_path), []
    whole = EvalData(eval_data.data)
    raw = Split.raw
    monkeypatch.setattr(
        Split, "raw", lambda self, indices: read.append(int(indices[0])) or raw(self, indices)
    )

    def means() -> torch.Tensor:
        return whole.map(CPU, lambda part: {"value": part.x.mean(1)}, protocol={}, size=50, runner=kept)[
            "value"
        ]

    first = means()
    assert read == [0, CHUNK_SIZE]
    assert torch.equal(means(), first) and read == [0, CHUNK_SIZE]
    next(tmp_path.rglob(f"part-{CHUNK_SIZE:08d}.done")).unlink()
    assert torch.equal(means(), first) and read == [0, CHUNK_SIZE, CHUNK_SIZE]


def test_progress_is_told_of_every_transition(model: LatentModel, eval_data: EvalData) -> None:
    """The total that a bar is given is what it gets, for every estimator."""
    seen: dict[str, list[int]] = {}

    @contextmanager
    def stage(label: str, total: int) -> Iterator[Callable[[int], None]]:
        told: list[int] = []
        yield told.append
        seen[label] = [total, sum(told)]

    watched = Runner(stage=stage)
    ais(model, eval_data, OPTIONS, runner=watched)
    bdmc(model, eval_data, OPTIONS, runner=watched)
    iwae(model, eval_data, 3, runner=watched)
    assert set(seen) == {"annealing", "annealing forward", "annealing in reverse", "iwae-3"}
    assert all(total == told > 0 for total, told in seen.values())


def test_unfinished_work_of_another_kind_is_not_taken_up(
    model: LatentModel, eval_data: EvalData, tmp_path: Path
) -> None:
    """Another model, option, seed or number of images has other names; a file cut short is computed anew."""
    kept = Runner(tmp_path, fingerprint=model_fingerprint(model))
    first = iwae(model, eval_data, 4, runner=kept)
    with torch.no_grad():
        model.decoder.W.mul_(0.5)  # type: ignore[union-attr,operator]
    changed = Runner(tmp_path, fingerprint=model_fingerprint(model))
    assert changed.fingerprint != kept.fingerprint
    assert iwae(model, eval_data, 4, runner=changed) == iwae(model, eval_data, 4) != first
    assert iwae(model, eval_data, 5, runner=changed) == iwae(model, eval_data, 5)
    for path in tmp_path.rglob("*.done"):
        path.write_bytes(path.read_bytes()[:40])
    assert iwae(model, eval_data, 4, runner=changed) == iwae(model, eval_data, 4)
