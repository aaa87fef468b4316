"""Configuration: recipes, overrides, components by name and by import path."""

from __future__ import annotations

import math
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import advae
from advae import registry
from advae.config import choose_recipe, choose_recipe_for_source, merge, option_parser, resolve
from advae.distributions import HEADS
from advae.errors import AdvaeError, CheckpointError, ConfigError
from advae.methods import METHODS
from advae.model import build_model
from advae.networks import CRITICS, NETWORKS
from training import tiny

BUILT_IN = advae.recipes()


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_recipe_resolves_to_a_config_that_resolves_to_itself(name: str, tmp_path: Path) -> None:
    config = resolve(name)
    assert config.recipe == name and config.description
    assert resolve(config.to_dict()) == config and resolve(config) is config
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.to_dict(), allow_unicode=True))
    assert resolve(path) == config
    assert METHODS.build(config.method).spec() == config.method


def test_every_method_has_a_recipe_on_digits() -> None:
    used = {resolve(name).method["name"] for name in BUILT_IN if "-digits" in name}
    assert used == set(METHODS.names())


def test_dotted_overrides() -> None:
    config = resolve("vae-digits", {"train.steps": 7, "model.latent_dim": 3, "method.beta": 2.0, "seed": 4})
    assert (config.train.steps, config.model["latent_dim"], config.method["beta"], config.seed) == (
        7,
        3,
        2.0,
        4,
    )


def test_strings_are_parsed_by_the_types_of_options() -> None:
    config = resolve("vae-digits", {"train.steps": "7", "model.encoder.hidden": "[5, 6]", "train.lr": "1e-4"})
    assert (config.train.steps, config.model["encoder"]["hidden"], config.train.lr) == (7, [5, 6], 1e-4)


def test_another_component_resets_the_options() -> None:
    config = resolve("vae-digits", {"model.encoder": "conv", "method": "avb"})
    assert config.model["encoder"]["name"] == "conv"
    assert config.model["encoder"]["hidden"] == [256]  # conv's own default
    assert "channels" in config.model["encoder"] and "beta" not in config.method
    assert config.method["contrast"] == "prior"


@pytest.mark.parametrize("spelling", ["model.encoder", "model.encoder.name"])
@pytest.mark.parametrize("name_first", [True, False])
def test_options_of_a_new_component_apply_in_any_order(spelling: str, name_first: bool) -> None:
    pairs = [(spelling, "conv"), ("model.encoder.hidden", [9])]
    config = resolve("vae-digits", dict(pairs if name_first else pairs[::-1]))
    assert config.model["encoder"]["name"] == "conv" and config.model["encoder"]["hidden"] == [9]


def test_naming_the_same_component_keeps_its_options() -> None:
    before = resolve("vae-digits").model["encoder"]
    assert resolve("vae-digits", {"model.encoder.name": "mlp"}).model["encoder"] == before


def test_a_recipe_with_a_base(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: vae-digits\ntrain: {steps: 9}\nmethod: {name: avb}\n")
    config, base = resolve(path), resolve("vae-digits")
    assert config.recipe == "mine" and config.train.steps == 9 and config.method["name"] == "avb"
    assert config.model == base.model and config.train.lr == base.train.lr


def test_merging_changes_neither_side() -> None:
    a, b = {"x": {"name": "p", "k": 1}, "y": 2}, {"x": {"name": "q"}}
    assert merge(a, b) == {"x": {"name": "q"}, "y": 2}
    assert a == {"x": {"name": "p", "k": 1}, "y": 2} and b == {"x": {"name": "q"}}


UNKNOWN_NAMES: list[tuple[Any, dict[str, Any], str]] = [
    ("vae-digit", {}, "vae-digits"),
    ("vae-digits", {"train.stesp": 5}, "train.steps"),
    ("vae-digits", {"model.encoder.hiden": [5]}, "hidden"),
    ("vae-digits", {"method": "vea"}, "vae"),
    ("vae-digits", {"model.encoder": "mpl"}, "mlp"),
    ("vae-digits", {"model.posterior": "norml"}, "normal"),
    ("vae-digits", {"model.critic": "conact"}, "concat"),
    ("vae-digits", {"method.beat": 2}, "beta"),
    ("vae-digits", {"data.sorce": "x"}, "data.source"),
    ("vae-digits", {"sede": 3}, "seed"),
    ({"modle": {"latent_dim": 2}}, {}, "model"),
    # former names
    ("vae-digits", {"train.rate": 1e-3}, "'train.lr'"),
    ("vae-digits", {"train.batch": 8}, "'train.batch_size'"),
    ("vae-digits", {"train.step": "eager"}, "'train.backend'"),
    ("vae-digits", {"train.skip": 1}, "'train.max_skipped_steps'"),
    ("vae-digits", {"data.protocol": "gray"}, "'data.preprocessing'"),
    ("vae-digits", {"model.latent": 2}, "'model.latent_dim'"),
    ("asvae-digits", {"method.order": "alternating"}, "'method.update_order'"),
    ("vae-digits", {"model.posterior": {"name": "implicit", "noise": 3}}, "'model.posterior.noise_dim'"),
    ("vae-digits", {"data.preprocessing": "binarise-dynamic"}, "'binarize-dynamic'"),
    ("vae-digits", {"data.preprocessing": "grey"}, "'gray'"),
    ("vae-digits", {"train.backend": "graph"}, "'cuda-graph'"),
    ("vae-digits", {"model.posterior": "own"}, "'passthrough'"),
    # names in other programs
    ("vae-digits", {"train.epochs": 5}, "'train.steps'"),
    ("vae-digits", {"train.learning_rate": 5}, "'train.lr'"),
    ("vae-digits", {"data.num_workers": 5}, "'data.workers'"),
    ("vae-digits", {"model.z_dim": 5}, "'model.latent_dim'"),
]


@pytest.mark.parametrize(("source", "overrides", "nearest"), UNKNOWN_NAMES)
def test_unknown_names_are_reported_with_the_nearest(
    source: Any, overrides: dict[str, Any], nearest: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(source, overrides)
    assert "did you mean" in str(caught.value.fix) and nearest in str(caught.value.fix)


@pytest.mark.parametrize(
    "overrides",
    [
        {"train.steps": "many"},
        {"train.steps": 0},
        {"train.lr_schedule": "cosin"},
        {"model.encoder.hidden": "wide"},
        {"method.kl": "open"},
        {"model.latent_dim": "three"},
        {"data.preprocessing": "grey"},
        {"method.critic_steps": 0},
        {"model.latent_dim": 0},
        {"model.encoder": 5},
        {"train": 5},
        {"model": "vae"},
        {"train.steps": {"a": 1}},
        {"train.lr.a": 1},
        # null, and numbers that are not finite, which jsonargparse accepts for any type
        {"recipe": None},
        {"seed": None},
        {"train.lr": None},
        {"model.encoder": None},
        {"model.encoder.hidden": None},
        {"train.steps": None},
        {"train.precision": None},
        {"train.lr": math.inf},
        {"data.test": math.nan},
        {"method.kl_warmup": math.nan},
        {"model.likelihood.max_scale": math.inf},
        {"description": date(2024, 1, 1)},
        {"train.steps": "\ud800"},
        {"data.source": b"digits"},
    ],
    ids=str,
)
def test_invalid_values_are_reported_before_anything_is_written(
    overrides: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(AdvaeError) as caught:
        advae.train("vae-digits", options=overrides, out=tmp_path / "run", quiet=True, report=False)
    assert caught.value.exit_code == 2
    assert len(str(caught.value)) < 500 and "Parser key" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_null_is_valid_where_it_is_the_default() -> None:
    assert resolve("vae-digits", {"data.limit": None, "data.test": None}).data.limit is None


@pytest.mark.parametrize(
    "text",
    [
        *(
            "- a\n- b",
            "a: [",
            "",
            "5",
            "method: 3",
            "model: {encoder: [1]}",
            "base:",
            "base: 5",
            "base: [[x]]",
        ),
        *(
            "seed: 1\nseed: 2",
            "train: {steps: 3}\ntrain: {lr: 1}",
            "2024-01-01: 3",
            "{1: 2}",
            "~: 3",
            "train: x",
        ),
        *("a0: &a0 [x]", "a: &a [*a]"),
    ],
)
def test_files_that_are_not_recipes(text: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(ConfigError):
        resolve(tmp_path / "r.yaml")
    with pytest.raises(ConfigError):
        resolve(tmp_path / "nowhere.yaml")


def test_the_suffix_of_a_recipe_file_may_be_upper_case(tmp_path: Path) -> None:
    (tmp_path / "BASE.YML").write_text("base: vae-digits\nseed: 4", encoding="utf-8")
    (tmp_path / "OWN.YAML").write_text("base: BASE.YML\ndescription: σ", encoding="utf-8")
    config = resolve(tmp_path / "OWN.YAML")
    assert (config.seed, config.recipe, config.description) == (4, "OWN", "σ")


def test_bases_are_bounded(tmp_path: Path) -> None:
    """Recipes of which each is twice the base of the next would be read 2^40 times."""
    (tmp_path / "0.yaml").write_text("seed: 1")
    for i in range(1, 41):
        (tmp_path / f"{i}.yaml").write_text(f"base: [{i - 1}.yaml, {i - 1}.yaml]")
    with pytest.raises(ConfigError, match="bases"):
        resolve(tmp_path / "40.yaml")
    (tmp_path / "folder").symlink_to(tmp_path)
    (tmp_path / "self.yaml").write_text("base: folder/self.yaml")
    with pytest.raises(ConfigError):
        resolve(tmp_path / "self.yaml")


def test_methods_check_the_distributions_they_need(tmp_path: Path) -> None:
    """Before anything is written: a VAE with an implicit posterior, AS-VAE with an implicit decoder."""
    for overrides in (
        {"method": "vae", "model.posterior": "implicit"},
        {"method": "vae", "model.posterior": "noise-basis"},
        {"method": "asvae", "model.likelihood": "implicit"},
        {"method": "vae", "method.kl": "closed", "model.posterior": "bernoulli"},
    ):
        with pytest.raises(ConfigError):
            advae.train("vae-digits", options=overrides, out=tmp_path / "run", quiet=True, report=False)
        assert not (tmp_path / "run").exists(), overrides


def test_help_lists_the_options_of_the_components() -> None:
    text = option_parser(resolve("vae-digits", {"method": "avb"}).to_dict()).format_help()
    for option in (
        "--train.steps",
        "--method.contrast",
        "--model.encoder.hidden",
        "--data.preprocessing",
        "--seed",
    ):
        assert option in text


# --- a user's own classes -----------------------------------------------------------------------------------

USER_MODULE = """
from torch import nn
import math

class MyEncoder(nn.Module):
    def __init__(self, in_shape, out_shape, *, noise_dim: int = 0, width: int = 4):
        super().__init__()
        self.out_shape = tuple(out_shape)
        self.body = nn.Sequential(
            nn.Linear(math.prod(in_shape) + noise_dim, width), nn.Tanh(), nn.Linear(width, math.prod(out_shape))
        )

    def forward(self, x, noise=None):
        return self.body(x.flatten(1)).reshape(-1, *self.out_shape)

NOT_A_CLASS = 5
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user's package on the path, never imported."""
    (tmp_path / "site" / "their_nets").mkdir(parents=True)
    (tmp_path / "site" / "their_nets" / "__init__.py").write_text(USER_MODULE)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(registry, "_allowed_packages", {"advae"})
    monkeypatch.delitem(sys.modules, "their_nets", raising=False)
    return "their_nets"


def test_a_users_network_is_refused_until_allowed(package: str, tmp_path: Path) -> None:
    options = {"model.encoder": f"{package}.MyEncoder", "model.encoder.width": 6}
    with pytest.raises(ConfigError, match="--allow their_nets"):
        resolve("vae-digits", options)
    assert package not in sys.modules, "refusing must not import it"
    advae.allow(package)
    config = resolve("vae-digits", options)
    assert config.model["encoder"] == {"name": "their_nets.MyEncoder", "width": 6}
    assert resolve(config.to_dict()) == config
    with pytest.raises(ConfigError, match=r"did you mean 'model\.encoder\.width'"):
        resolve("vae-digits", {**options, "model.encoder.widht": 3})
    for path in ("their_nets.Nothing", "their_nets.NOT_A_CLASS", "their_nets.deep.Thing"):
        with pytest.raises(ConfigError):
            resolve("vae-digits", {"model.encoder": path})


@pytest.mark.integration
def test_a_users_network_is_saved_by_its_path(package: str, tmp_path: Path) -> None:
    """A process that does not allow the package refuses the model without importing it."""
    advae.allow(package)
    source = tiny.data(tmp_path)
    tree = tiny.changed(tiny.tree(source), {"model.encoder": {"name": f"{package}.MyEncoder", "width": 6}})
    run = advae.train(tree, options={"train.steps": 2}, out=tmp_path / "run", quiet=True, report=False)
    model = run.model()
    assert type(model.encoder.network).__name__ == "MyEncoder"
    assert model.encode(torch.zeros(2, 1, 4, 5)).mean.shape == (2, 2)
    program = (
        "import sys; from advae.errors import ConfigError; import advae\n"
        "try:\n    advae.load(sys.argv[1])\n"
        "except ConfigError as error:\n    assert 'their_nets' not in sys.modules; print(error); sys.exit(2)\n"
    )
    paths = [str(tmp_path / "site"), str(Path(advae.__file__).parents[1])]
    result = subprocess.run(
        [sys.executable, "-c", program, str(run.path)],
        env={"PYTHONPATH": ":".join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2, result.stderr
    assert "--allow their_nets" in result.stdout


def test_a_model_without_a_description_cannot_be_saved(tmp_path: Path) -> None:
    from truth.linear_gaussian import make

    with pytest.raises(ConfigError):
        make()[0].save_pretrained(tmp_path / "model")
    with pytest.raises(CheckpointError):
        advae.load(tmp_path / "model")


def test_a_model_file_cannot_name_an_arbitrary_class() -> None:
    """Classes of imported modules are allowed, but must be networks."""
    with pytest.raises(AdvaeError):
        advae.build_model(
            {
                "latent_dim": 2,
                "encoder": {"name": "subprocess.Popen", "args": "true"},
                "posterior": {"name": "normal"},
                "decoder": {"name": "mlp"},
                "likelihood": {"name": "bernoulli"},
                "critic": {"name": "concat"},
            },
            (1, 4, 5),
        )


def test_the_docs_list_every_component_and_their_example_resolves(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "how-to" / "write-a-recipe.md").read_text()
    for components in (METHODS, HEADS, NETWORKS, CRITICS):
        assert [name for name in components.names() if f"`{name}`" not in page] == []
    (tmp_path / "own.yaml").write_text(page.split("```yaml\n")[1].split("```")[0])
    config = resolve(tmp_path / "own.yaml")
    assert (config.recipe, config.method["name"], config.model["latent_dim"]) == ("own", "avb", 4)
    build_model(config.model, (1, 8, 8), METHODS.build(config.method).critics)


def test_bases_are_merged_in_order() -> None:
    one = {"train": {"steps": 7, "batch_size": 8}, "model": {"encoder": {"name": "mlp", "hidden": [3]}}}
    other = {"train": {"batch_size": 16}, "model": {"encoder": {"name": "conv"}}}
    both = resolve({"base": [one, other], "train": {"log_every": 3}})
    assert (both.train.steps, both.train.batch_size, both.train.log_every) == (7, 16, 3)
    assert both.model["encoder"]["name"] == "conv" and "hidden" not in other["model"]["encoder"]
    turned = resolve({"base": [other, one]})
    assert turned.train.batch_size == 8 and turned.model["encoder"]["hidden"] == [3]


def test_the_path_of_a_base_is_relative_to_the_file_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "common.yaml").write_text("base: vae-digits\nmodel: {latent_dim: 3}")
    (tmp_path / "below" / "own.yaml").write_text("base: ../common.yaml\nseed: 4")
    monkeypatch.chdir(tmp_path / "below")
    for given in ("own.yaml", str(tmp_path / "below" / "own.yaml")):
        config = resolve(given)
        assert (config.model["latent_dim"], config.seed, config.recipe) == (3, 4, "own")


def test_a_component_of_a_later_base_replaces_that_of_an_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("base: vae-digits\nmodel: {encoder: {name: mlp, hidden: [777]}}")
    (tmp_path / "two.yaml").write_text("model: {encoder: {name: conv}}")
    (tmp_path / "own.yaml").write_text("base: [one.yaml, two.yaml]\nmodel: {encoder: mlp}")
    assert resolve(tmp_path / "own.yaml").model["encoder"]["hidden"] != [777]


# --- choice of a recipe -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "source", "name"),
    [
        ((1, 28, 20), "faces.npy", "vae-images"),
        ((30,), "wine.csv", "vae-table"),
        ((1, 8, 8), "digits", "vae-digits"),
    ],
)
def test_recipe_is_chosen_by_the_data(shape: tuple[int, ...], source: str, name: str) -> None:
    choice = choose_recipe(shape, source)
    assert choice.name == name and choice.name in str(choice) and choice.reason in str(choice)
    assert choice.name not in choice.others and set(choice.others) <= set(BUILT_IN)
    assert all(other.endswith(name.removeprefix("vae")) for other in choice.others)


def test_no_recipe_is_chosen_for_other_shapes() -> None:
    with pytest.raises(ConfigError, match="shape"):
        choose_recipe((2, 3, 4, 5))


@pytest.mark.parametrize(
    ("shape", "options", "name"),
    [
        ((9, 6, 5), {}, "vae-images"),
        ((9, 6, 5), {"data.layout": "as-stored"}, None),
        ((9, 6, 5, 3), {}, "vae-images"),
        ((9, 6), {}, "vae-table"),
    ],
)
def test_recipe_is_chosen_for_a_source_read_by_its_options(
    shape: tuple[int, ...], options: dict[str, str], name: str | None, tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=shape))
    given = {"data.source": str(tmp_path / "x.npy"), "train.steps": "3"} | options
    if name is None:
        with pytest.raises(ConfigError):
            choose_recipe_for_source(given)
    else:
        assert choose_recipe_for_source(given).name == name
