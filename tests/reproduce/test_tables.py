"""The tables that ship: their recipes exist, what they ask can be had, and their figures are the papers'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from advae.config import recipes, resolve
from advae.errors import ConfigError
from advae.reproduce import toy_grid
from advae.reproduce.beside import absent, ours_text, published_text, titled
from advae.reproduce.evaluate_job import asked_of
from advae.reproduce.markdown_report import data_name
from advae.reproduce.studies import study_of
from advae.reproduce.table_spec import Column, Table, read_table, tables
from reproduce.small import counting, record, reproduced, table, written

TABLES = {name: read_table(name) for name in tables()}


def published(name: str) -> dict[str, dict[str, float]]:
    """The figures of a table by recipe, without errors."""
    rows = TABLES[name].rows
    return {
        row.name: {key: figure.value for key, figure in row.published.items()}
        for row in rows
        if row.published
    }


def test_all_tables_ship() -> None:
    names = ["asvae-1", "asvae-2", "asvae-3", "avb-3a", "avb-3b", "avb-3c", "bavae", "toy"]
    assert tables() == names


@pytest.mark.parametrize("name", TABLES)
def test_a_table_can_be_carried_out(name: str) -> None:
    found = TABLES[name]
    study_of(found)
    missing = [row.name for row in found.rows if isinstance(row.recipe, str) and row.recipe not in recipes()]
    assert missing == []
    for row in found.rows:
        assert resolve(row.recipe).train.steps > 0
    for part in found.evaluation:
        assert asked_of(part)["strict"] is False
    assert found.study or (found.evaluation and found.columns and found.references)
    assert all(len(note.split()) > 5 for note in found.notes)


AVB = {  # PAPERS: ELBO, log p(x) by AIS, reconstruction
    "avb-3a": {
        "avb-ac-mnist-fc32": (-85.1, -83.7, 59.3),
        "avb-ac-paper-mnist-fc32": (-85.1, -83.7, 59.3),
        "vae-mnist-fc32": (-88.9, -85.0, 62.2),
        "vae-aux-mnist-fc32": (-88.0, -83.8, 62.1),
        "vae-iaf-mnist-fc32": (-88.9, -84.9, 62.3),
    },
    "avb-3b": {
        "avb-ac-mnist-conv8": (-93.8, -89.7, 76.4),
        "avb-ac-paper-mnist-conv8": (-93.8, -89.7, 76.4),
        "vae-mnist-conv8": (-94.9, -89.9, 76.7),
        "vae-aux-mnist-conv8": (-95.0, -89.7, 76.8),
        "vae-iaf-mnist-conv8": (-94.4, -89.7, 76.1),
    },
    "avb-3c": {
        "avb-ac-mnist-conv32": (-82.7, -81.7, 57.0),
        "avb-ac-paper-mnist-conv32": (-82.7, -81.7, 57.0),
        "vae-mnist-conv32": (-85.7, -81.9, 59.4),
        "vae-aux-mnist-conv32": (-85.6, -81.6, 59.6),
        "vae-iaf-mnist-conv32": (-85.5, -82.1, 59.6),
    },
}
ASVAE = {
    "asvae-1": {
        "asvae-r-mnist-conv": {"nll": 81.14},
        "asvae-g-mnist-conv": {"nll": 146.32},
        "asvae-mnist-conv": {"nll": 82.51},
        "vae-planar-mnist-conv": {"nll": 85.1},
        "vae-iaf-mnist-conv": {"nll": 80.9},
        "mle-mnist-pixelcnn": {"nll": 79.2},
    },
    "asvae-2": {
        "asvae-r-cifar10-conv": {"nll": 3.09, "rmse": 3.17, "is": 2.91},
        "asvae-g-cifar10-conv": {"nll": 93.12, "rmse": 13.12, "is": 6.89},
        "asvae-cifar10-conv": {"nll": 3.32, "rmse": 3.36, "is": 6.34},
        "ali-cifar10-conv": {"rmse": 14.53, "is": 4.79},
        "gan-cifar10-dcgan": {"is": 4.89},
        "wgan-gp-cifar10-dcgan": {"is": 3.82},
        "mle-cifar10-pixelcnn": {"nll": 2.96, "rmse": 3.289, "is": 5.51},
    },
    "asvae-3": {
        "asvae-imagenet64-conv": {"nll": 3.71, "is": 11.14},
        "gan-imagenet64-dcgan": {"is": 5.965},
        "mle-imagenet64-pixelcnn": {"nll": 3.27, "is": 7.65},
    },
}


@pytest.mark.parametrize("name", AVB)
def test_figures_of_avb_are_the_papers(name: str) -> None:
    keys = ("elbo", "ais", "reconstruction")
    assert published(name) == {row: dict(zip(keys, of, strict=True)) for row, of in AVB[name].items()}
    for row in TABLES[name].rows:
        assert {key: row.published[key].error for key in ("elbo", "reconstruction")} == {
            "elbo": 0.2,
            "reconstruction": 0.2,
        }
        assert row.published["ais"].error in (0.3, 0.4)
        kind = "adversarial estimate" if row.name.startswith("avb") else ""
        assert row.published["elbo"].kind == kind


@pytest.mark.parametrize("name", ASVAE)
def test_figures_of_asvae_are_the_papers(name: str) -> None:
    assert published(name) == ASVAE[name]


def test_columns_find_the_estimates_that_they_are_of() -> None:
    def found(table: str, column: str, *names: str) -> str | None:
        of = next(c for c in TABLES[table].columns if c.name == column)
        return of.found(names)

    bits = ["elbo", "elbo (critic)", "elbo[full-normal] (bits/dim)", "iwae-64 (bits/dim)"]
    assert found("asvae-2", "nll", *bits) == "elbo[full-normal] (bits/dim)"
    assert (
        found("asvae-2", "nll", *bits, "exact log-likelihood (bits/dim)") == "exact log-likelihood (bits/dim)"
    )
    assert found("asvae-2", "iwae", *bits) == "iwae-64 (bits/dim)"
    assert (
        found("asvae-2", "fid", "FID[x-classifier] of test data", "FID[x-classifier]") == "FID[x-classifier]"
    )
    assert found("asvae-2", "fid", "FID[x-classifier] of test data") is None
    assert found("asvae-1", "nll", "elbo (critic)", "elbo (bits/dim)") is None
    assert found("avb-3a", "elbo", "elbo[full-normal]", "elbo (critic)") == "elbo (critic)"
    assert found("avb-3a", "ais", "ais (bits/dim)", "ais") == "ais"


def test_published_figures_are_printed_as_papers_do() -> None:
    def text(**figure: Any) -> str:
        return published_text({"error": None, "kind": "", **figure})

    assert text(value=-85.1, error=0.2, kind="adversarial estimate") == "≈ −85.1 ± 0.2"
    assert text(value=-85.0, error=0.3) == "−85.0 ± 0.3"
    assert text(value=3.82, kind="by another") == "3.82<br><sub>by another</sub>"
    assert published_text(None) == "–"


def test_an_empty_cell_says_why() -> None:
    gan = {"can": {"likelihood": False, "encoder": False}}
    vae = {"can": {"likelihood": True, "encoder": True}}
    assert [absent([gan], need) for need in ("likelihood", "encoder", "")] == [
        "no likelihood",
        "no encoder",
        "–",
    ]
    assert [absent([vae], "likelihood"), absent([], "likelihood")] == ["–", "not run yet"]
    assert [absent([{"error": "x"}], ""), absent([{"error": "x"}, gan], "encoder")] == [
        "failed",
        "no encoder",
    ]


def test_the_network_is_named_in_the_heading_or_in_every_cell() -> None:
    def made(*names: str) -> dict[str, Any]:
        more = {"value": 5.0, "stderr": 1.0, "kind": "error", "spread": None, "unit": ""}
        rows = [{"figures": {"fid": {"name": name, **more}}} for name in names]
        return {"columns": {"fid": "FID"}, "rows": rows}

    alike, apart = made("FID[a]", "FID[a]"), made("FID[a]", "FID[b]")
    assert [titled(alike, "fid"), ours_text(alike["rows"][1], "fid", alike)] == ["FID [a]", "5.0 ± 1.0"]
    assert [titled(apart, "fid"), ours_text(apart["rows"][1], "fid", apart)] == [
        "FID",
        "5.0 ± 1.0<br><sub>FID[b]</sub>",
    ]


def test_data_are_called_what_they_are() -> None:
    assert [data_name(n) for n in ("cifar10", "cifar10-jpeg")] == ["CIFAR-10", "CIFAR-10 (JPEG)"]
    assert [data_name(n) for n in ("tiny-imagenet", "mine")] == ["tiny-imagenet", "mine"]


# --- a definition -------------------------------------------------------------------------------------------


def test_the_table_of_the_docs_can_be_carried_out(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "reproduce.md").read_text()
    (tmp_path / "docs.yaml").write_text(text.split("```yaml\n")[1].split("```")[0])
    found = read_table(tmp_path / "docs.yaml")
    assert [resolve(row.recipe).model["latent_dim"] for row in found.rows] == [8, 8, 2]
    assert [asked_of(part).get("limit") for part in found.evaluation] == [None, 64]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"titel": "x"}, ["no 'titel'", "'title'"]),
        ({"rows": [{"label": "x"}]}, ["recipe is missing"]),
        ({"rows": []}, ["needs rows"]),
        ({"rows": [{"label": "x", "recipe": {"base": "vae-digits"}}]}, ["recipe with its name"]),
        ({"rows": [{"label": "x", "recipe": "a"}, {"label": "y", "recipe": "a"}]}, ["a recipe of its own"]),
        ({"rows": [{"label": "x", "recipe": "a", "published": {"elb": 1}}]}, ["no 'elb'", "'elbo'"]),
        ({"rows": [{"label": "x", "recipe": "a", "published": {"elbo": "1 nat"}}]}, ["value is a number"]),
        ({"columns": {"elbo": {"title": "x", "ours": "elbo"}}}, ["ours is a list"]),
        ({"columns": {"elbo": {"title": "x", "ours": ["elbo"], "needs": "decoder"}}}, ["needs 'decoder'"]),
        ({"references": ["vae-smal"]}, ["no 'vae-smal'", "'vae-small'"]),
        ({"evaluation": [{"limits": 3}]}, ["no 'limits'", "'limit'"]),
        ({"evaluation": {"limit": 3}}, ["evaluation is a list"]),
    ],
)
def test_a_wrong_definition_is_told(more: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        read_table(written(tmp_path, table(**more)))
    for word in words:
        assert word in str(error.value)


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    (tmp_path / "bad.yaml").write_text("a: [\n")
    for name, word in (("list", "names with values"), ("bad", "not valid YAML"), ("none", "cannot be read")):
        with pytest.raises(ConfigError, match=word):
            read_table(tmp_path / f"{name}.yaml")


def test_a_study_that_there_is_not() -> None:
    rows = TABLES["avb-3a"].rows
    columns = TABLES["avb-3a"].columns
    with pytest.raises(ConfigError, match="no study 'toi'"):
        study_of(Table("x", "x", "x", rows, columns, study="toi"))


def test_names_with_signs_are_matched_as_they_are() -> None:
    assert Column("a", "a", ("rmse (PCA-*)",)).found(["rmse (PCA-8)"]) == "rmse (PCA-8)"
    assert Column("a", "a", ("FID[*]",)).found(["FIDx"]) is None


# --- the toy ------------------------------------------------------------------------------------------------


def test_the_toy_is_trained_measured_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SQUARE": 64, "DRAWS": 2**16, "DECODED": 2**14, "BLOCK": 2**14}.items():
        monkeypatch.setattr(toy_grid, name, value)
    rows = [{"label": row.label, "recipe": dict(row.recipe)} for row in TABLES["toy"].rows]  # type: ignore[call-overload]
    for row in rows:
        row["recipe"]["train"] = {"steps": 3, "batch": 32}
    definition = {"title": "toy", "source": "x", "study": "toy", "seeds": [2], "rows": rows}
    calls: list[Any] = []
    monkeypatch.setattr(toy_grid, "on_grid", counting(toy_grid.on_grid, calls))
    for _ in range(2):
        assert reproduced(tmp_path, definition=definition) == 0
        runs = record(tmp_path)["runs"]
        assert [(run["recipe"], run["seed"]) for run in runs] == [("vae-toy", 2), ("avb-toy", 2)]
        assert all(run["steps"] == 3 and run["elbo"] <= run["evidence"] + 0.01 for run in runs)
    assert len(calls) == 2  # measured once
    text = (tmp_path / "results" / "small.md").read_text()
    assert "Seed 2. Above" in text and "1 of 1" in text
    assert (tmp_path / "results" / "small.png").read_bytes().startswith(b"\x89PNG")
    assert reproduced(tmp_path, "--images", 3, definition=definition) == 2
