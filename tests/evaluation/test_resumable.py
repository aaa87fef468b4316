"""Resumable evaluation: independent batches, and interruptions without effect on the results."""

from __future__ import annotations

import os
import shutil
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
def test_observations_do_not_depend_on_the_batch_size(size: int) -> None:
    """All estimators must see the same sampled binary pixels under one seed, whatever their batch size."""
    data = load_data(DataOptions(source="digits", preprocessing="binarize-dynamic"))
    eval_data = EvalData(data, "train", limit=600)
    whole, parts = (list(eval_data.batches(CPU, n)) for n in (CHUNK_SIZE, size))
    assert torch.equal(torch.cat([p.x for p in whole]), torch.cat([p.x for p in parts]))
    assert torch.equal(torch.cat([p.raw for p in whole]), torch.cat([p.raw for p in parts]))
    assert len({p.seed for p in parts}) == len(parts)


def test_another_evaluation_may_end_while_a_partial_result_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It removes the partial results of all evaluations, with their folders."""
    replace, others = os.replace, iter([True])

    def end_other_evaluation_first(source: str, target: str) -> None:
        if next(others, False):
            shutil.rmtree(Path(target).parent)
        replace(source, target)

    partial = Runner(root=tmp_path).partial_result({"name": "mine"}, 0)
    monkeypatch.setattr(os, "replace", end_other_evaluation_first)
    partial.save_result({"value": torch.arange(3.0)})
    assert torch.equal(partial.load_result()["value"], torch.arange(3.0))


def test_processes_share_the_batches_and_match_a_single_process(
    eval_data: EvalData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch is computed once, with the random numbers that it has in a single process."""

    def compute(part: Batch) -> dict[str, torch.Tensor]:
        return {"value": torch.randn(len(part.x)) + part.x.sum(1)}

    single_process = eval_data.map(CPU, compute, size=50)["value"]
    shares: list[dict[int, dict[str, torch.Tensor]]] = []
    monkeypatch.setattr(Runner, "world_size", 2)
    monkeypatch.setattr(Runner, "_gather", lambda self, result: shares.append(result) or {0: first_result})
    first_result = {"value": torch.zeros(1)}
    for rank in range(2):
        monkeypatch.setattr(Runner, "rank", rank)
        eval_data.map(CPU, compute, size=50)
    assert sorted(shares[0]) == [0, 100] and sorted(shares[1]) == [50]
    merged = {**shares[0], **shares[1]}
    assert torch.equal(single_process, torch.cat([merged[start]["value"] for start in sorted(merged)]))


class Interrupted(Exception):
    """Simulates a kill."""


def interrupt_after(num_ticks: int) -> Callable[..., object]:
    """Return a stage that is interrupted after ``num_ticks`` ticks."""
    remaining = [num_ticks]

    @contextmanager
    def stage(label: str, total: int) -> Iterator[Callable[[int], None]]:
        def tick(n: int) -> None:
            remaining[0] -= n
            if remaining[0] <= 0:
                raise Interrupted

        yield tick

    return stage


@pytest.mark.parametrize("after", [5, 104, 110, 200, 240])
def test_resumed_annealing_gives_the_same_estimates(
    model: LatentModel, eval_data: EvalData, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bitwise, after interruptions in the pilot run, the first batch, between batches and in the last one."""
    monkeypatch.setattr(resumable, "SECONDS_BETWEEN_SAVES", 0.0)
    uninterrupted = ais(model, eval_data, OPTIONS)
    stage = interrupt_after(after)
    with pytest.raises(Interrupted):
        ais(model, eval_data, OPTIONS, runner=Runner(tmp_path, stage, model_fingerprint(model)))  # type: ignore[arg-type]
    if after > 104:
        assert list(tmp_path.rglob("*"))
    again = ais(model, eval_data, OPTIONS, runner=Runner(tmp_path, fingerprint=model_fingerprint(model)))
    assert torch.equal(again.per_example["value"], uninterrupted.per_example["value"])
    assert torch.equal(again.per_example["acceptance"], uninterrupted.per_example["acceptance"])
    assert again == uninterrupted


def test_finished_batches_are_not_computed_again(
    model: LatentModel, eval_data: EvalData, tmp_path: Path
) -> None:
    runner = Runner(tmp_path, fingerprint=model_fingerprint(model))
    first = bdmc(model, eval_data, OPTIONS, runner=runner)
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


def test_images_of_finished_batches_are_not_read_again(
    eval_data: EvalData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If all are finished, nothing is read; if one is missing, only its chunk is."""
    runner, chunks_read = Runner(tmp_path), []
    whole = EvalData(eval_data.data)
    raw = Split.raw
    monkeypatch.setattr(
        Split, "raw", lambda self, indices: chunks_read.append(int(indices[0])) or raw(self, indices)
    )

    def means() -> torch.Tensor:
        return whole.map(CPU, lambda part: {"value": part.x.mean(1)}, protocol={}, size=50, runner=runner)[
            "value"
        ]

    first = means()
    assert chunks_read == [0, CHUNK_SIZE]
    assert torch.equal(means(), first) and chunks_read == [0, CHUNK_SIZE]
    next(tmp_path.rglob(f"part-{CHUNK_SIZE:08d}.done")).unlink()
    assert torch.equal(means(), first) and chunks_read == [0, CHUNK_SIZE, CHUNK_SIZE]


def test_progress_counts_every_transition(model: LatentModel, eval_data: EvalData) -> None:
    """For every estimator, ticks add up to the announced total."""
    progress: dict[str, list[int]] = {}

    @contextmanager
    def stage(label: str, total: int) -> Iterator[Callable[[int], None]]:
        ticks: list[int] = []
        yield ticks.append
        progress[label] = [total, sum(ticks)]

    runner = Runner(stage=stage)
    ais(model, eval_data, OPTIONS, runner=runner)
    bdmc(model, eval_data, OPTIONS, runner=runner)
    iwae(model, eval_data, 3, runner=runner)
    assert set(progress) == {"annealing", "annealing forward", "annealing in reverse", "iwae-3"}
    assert all(total == ticks > 0 for total, ticks in progress.values())


def test_partial_results_of_other_settings_are_not_used(
    model: LatentModel, eval_data: EvalData, tmp_path: Path
) -> None:
    """Names of partial results depend on model, options, seed and number of images."""
    runner = Runner(tmp_path, fingerprint=model_fingerprint(model))
    first = iwae(model, eval_data, 4, runner=runner)
    with torch.no_grad():
        model.decoder.W.mul_(0.5)  # type: ignore[union-attr,operator]
    changed = Runner(tmp_path, fingerprint=model_fingerprint(model))
    assert changed.fingerprint != runner.fingerprint
    assert iwae(model, eval_data, 4, runner=changed) == iwae(model, eval_data, 4) != first
    assert iwae(model, eval_data, 5, runner=changed) == iwae(model, eval_data, 5)


@pytest.mark.parametrize("damage", ["flipped bit", "truncated", "empty", "other format"])
@pytest.mark.parametrize("position", [0.0, 0.1, 0.5, 0.999])
def test_damaged_partial_results_are_computed_again_with_a_warning(
    damage: str, position: float, eval_data: EvalData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Values depend on the call, so that a recomputation is told from a stored result."""
    calls: list[int] = []

    def values() -> torch.Tensor:
        def compute(part: Batch) -> dict[str, torch.Tensor]:
            calls.append(part.start)
            return {"value": part.x.sum(1)}

        return eval_data.map(CPU, compute, protocol={}, size=60, runner=Runner(tmp_path))["value"]

    first = values()
    assert torch.equal(values(), first) and calls == [0, 60] and capsys.readouterr().err == ""
    path = sorted(tmp_path.rglob("*.done"))[1]
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] ^= 4
    damaged = {"flipped bit": content, "truncated": content[: int(position * len(content))], "empty": b""}
    path.write_bytes(damaged.get(damage, bytes(content)[32:]))
    assert torch.equal(values(), first) and calls == [0, 60, 60]
    assert path.name in capsys.readouterr().err
    assert torch.equal(values(), first) and calls == [0, 60, 60]


def test_a_damaged_state_of_annealing_does_not_change_the_estimate(
    model: LatentModel, eval_data: EvalData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One flipped bit of a weight, in the exponent, would change the estimate by orders of magnitude."""
    monkeypatch.setattr(resumable, "SECONDS_BETWEEN_SAVES", 0.0)
    with pytest.raises(Interrupted):
        ais(model, eval_data, OPTIONS, runner=Runner(tmp_path, interrupt_after(104)))  # type: ignore[arg-type]
    (path,) = tmp_path.rglob("*.state")
    content = bytearray(path.read_bytes())
    content[-2] ^= 64
    path.write_bytes(content)
    assert ais(model, eval_data, OPTIONS, runner=Runner(tmp_path)) == ais(model, eval_data, OPTIONS)
