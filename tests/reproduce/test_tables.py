"""Shipped tables: recipes, evaluations, published values, columns, and invalid definitions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from advae.config import recipes, resolve
from advae.errors import ConfigError
from advae.formatting import TableCell
from advae.reproduce.evaluate_job import eval_arguments
from advae.reproduce.markdown_report import column_title, missing_value, published_cell, value_cell
from advae.reproduce.table_spec import read_table, table_names
from reproduce.small import table, write_table

TABLES = {name: read_table(name) for name in table_names()}


def published(name: str) -> dict[str, dict[str, float]]:
    """Return the published values of a table by recipe, without errors."""
    rows = TABLES[name].rows
    return {
        row.name: {key: value.value for key, value in row.published.items()} for row in rows if row.published
    }


def test_names_of_shipped_tables() -> None:
    names = ["asvae-1", "asvae-2", "asvae-3", "avb-3a", "avb-3b", "avb-3c", "bavae"]
    assert table_names() == names


@pytest.mark.parametrize("name", TABLES)
def test_recipes_and_evaluations_of_a_table_are_valid(name: str) -> None:
    spec = TABLES[name]
    missing = [row.name for row in spec.rows if isinstance(row.recipe, str) and row.recipe not in recipes()]
    assert missing == []
    for row in spec.rows:
        assert resolve(row.recipe).train.steps > 0
    for part in spec.evaluation:
        assert eval_arguments(part)["config"].strict is False
    assert spec.evaluation and spec.columns and spec.references
    assert all(len(note.split()) > 5 for note in spec.notes)


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
def test_published_values_of_avb_equal_the_paper(name: str) -> None:
    keys = ("elbo", "ais", "reconstruction")
    assert published(name) == {row: dict(zip(keys, values, strict=True)) for row, values in AVB[name].items()}
    for row in TABLES[name].rows:
        assert {key: row.published[key].error for key in ("elbo", "reconstruction")} == {
            "elbo": 0.2,
            "reconstruction": 0.2,
        }
        assert row.published["ais"].error in (0.3, 0.4)
        kind = "adversarial estimate" if row.name.startswith("avb") else ""
        assert row.published["elbo"].kind == kind


@pytest.mark.parametrize("name", ASVAE)
def test_published_values_of_asvae_equal_the_paper(name: str) -> None:
    assert published(name) == ASVAE[name]


def test_columns_select_estimates_by_metric_variant_and_unit() -> None:
    def estimate(
        metric: str, variant: str = "", unit: str = "nats", kind: str = "lower bound"
    ) -> dict[str, str]:
        return {"metric": metric, "variant": variant, "unit": unit, "kind": kind}

    def find(table: str, name: str, *estimates: dict[str, str], baseline: bool = False) -> Any:
        column = next(c for c in TABLES[table].columns if c.name == name)
        return column.find(estimates, baseline)

    critic = estimate("elbo", "critic", kind="adversarial estimate")
    fitted, bits = estimate("elbo", "full-normal"), estimate("elbo", "full-normal", "bits/dim", "upper bound")
    exact = estimate("exact", unit="bits/dim", kind="exact")
    assert find("asvae-2", "nll", critic, fitted, bits) == bits
    assert find("asvae-2", "nll", critic, bits, exact) == exact
    assert find("asvae-1", "nll", critic, bits) is None
    assert (
        find("avb-3a", "elbo", fitted, critic) == critic
    )  # the bound of a fitted normal is not the encoder's
    assert find("avb-3a", "elbo", estimate("elbo"), critic) == estimate("elbo")
    bounds = [estimate("elbo-certified", bound) for bound in ("lower", "upper", "gap")]
    assert find("avb-3a", "certified_lower", critic, *bounds) == bounds[0]
    assert find("avb-3a", "certified_upper", critic, *bounds) == bounds[1]
    fid, real = estimate("fid", "a", "", "error"), estimate("fid", "a", "", "baseline")
    assert find("asvae-2", "fid", real, fid) == fid and find("asvae-2", "fid", real) is None
    assert find("asvae-2", "fid", fid, real, baseline=True) == real


def test_format_of_published_values() -> None:
    def cell(**value: Any) -> TableCell:
        return published_cell({"error": None, "kind": "", **value})

    assert cell(value=-85.1, error=0.2, kind="adversarial estimate") == TableCell("≈ −85.1 ± 0.2")
    assert cell(value=-85.0, error=0.3) == TableCell("−85.0 ± 0.3")
    assert cell(value=3.82, kind="by another") == TableCell("3.82", note="by another")
    assert published_cell(None) == TableCell("–")


def test_empty_cell_has_a_reason() -> None:
    gan = {"supports": {"likelihood": False, "encoder": False}}
    vae = {"supports": {"likelihood": True, "encoder": True}}
    assert [missing_value([gan], need) for need in ("likelihood", "encoder", "")] == [
        "no likelihood",
        "no encoder",
        "–",
    ]
    assert [missing_value([vae], "likelihood"), missing_value([], "likelihood")] == ["–", "not run yet"]
    assert [missing_value([{"error": "x"}], ""), missing_value([{"error": "x"}, gan], "encoder")] == [
        "failed",
        "no encoder",
    ]


def test_feature_network_is_named_once_if_all_rows_share_it() -> None:
    def make_results(*names: str) -> dict[str, Any]:
        more = {"value": 5.0, "stderr": 1.0, "kind": "error", "seed_std": None, "unit": "", "metric": "fid"}
        rows = [{"values": {"fid": {"variant": name, **more}}} for name in names]
        return {"columns": {"fid": "FID"}, "rows": rows}

    same, different = make_results("a", "a"), make_results("a", "b")
    assert [column_title(same, "fid"), value_cell(same["rows"][1], "fid", same)] == [
        "FID [a]",
        TableCell("5.0 ± 1.0"),
    ]
    assert [column_title(different, "fid"), value_cell(different["rows"][1], "fid", different)] == [
        "FID",
        TableCell("5.0 ± 1.0", note="fid [b]"),
    ]


# --- table definitions --------------------------------------------------------------------------------------


def test_example_table_of_the_docs_is_valid(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "how-to" / "reproduce-a-table.md").read_text()
    (tmp_path / "docs.yaml").write_text(text.split("```yaml\n")[1].split("```")[0])
    spec = read_table(tmp_path / "docs.yaml")
    assert [resolve(row.recipe).model["latent_dim"] for row in spec.rows] == [8, 8, 2]
    assert [eval_arguments(part).get("limit") for part in spec.evaluation] == [None, 64]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"titel": "x"}, ["titel", "title"]),
        ({"rows": [{"label": "x"}]}, ["recipe"]),
        ({"rows": []}, ["rows"]),
        ({"rows": [{"label": "x", "recipe": {"base": "vae-digits"}}]}, ["recipe"]),
        ({"rows": [{"label": "x", "recipe": "a"}, {"label": "y", "recipe": "a"}]}, ["recipes"]),
        ({"rows": [{"label": "x", "recipe": "a", "published": {"elb": 1}}]}, ["elb", "elbo"]),
        ({"rows": [{"label": "x", "recipe": "a", "published": {"elbo": "1 nat"}}]}, ["value"]),
        ({"columns": {"elbo": {"title": "x", "ours": "elbo"}}}, ["ours"]),
        ({"columns": {"elbo": {"title": "x", "ours": ["elbo"], "needs": "decoder"}}}, ["decoder"]),
        ({"references": ["vae-smal"]}, ["vae-smal", "vae-small"]),
        ({"evaluation": [{"limits": 3}]}, ["limits", "limit"]),
        ({"evaluation": {"limit": 3}}, ["evaluation"]),
    ],
)
def test_invalid_definition_raises(more: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        read_table(write_table(tmp_path, table(**more)))
    for word in words:
        assert word in str(error.value)


def test_files_that_are_not_tables_raise(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    (tmp_path / "bad.yaml").write_text("a: [\n")
    (tmp_path / "loop.yaml").write_text(f"base: {tmp_path / 'loop.yaml'}\n")
    (tmp_path / "twice.yaml").write_text("title: a\ntitle: b\n")
    for name in ("list", "bad", "none", "loop", "twice"):
        with pytest.raises(ConfigError):
            read_table(tmp_path / f"{name}.yaml")
