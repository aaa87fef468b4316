"""Products of float32 matrices by the faster library: the same products, where they are asked for and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from advae.networks import products
from advae.networks.products import LARGE, faster_products, linear, onednn_gain, recorded_products
from advae.networks.products import onednn_is_faster as asked
from advae.training.products import fast_products

pytestmark = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")),
    reason="this torch was built without oneDNN",
)

B, N, M = 64, 200, 160  # B · N · M is above LARGE


@pytest.fixture(autouse=True)
def faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where oneDNN is much faster; whether it is here decides nothing below."""
    monkeypatch.setattr(products, "onednn_is_faster", lambda: True)


@pytest.fixture
def given_to_onednn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, ...]]]:
    """Shapes of the products that went there."""
    seen: list[tuple[int, ...]] = []
    before = torch.ops.mkldnn._linear_pointwise

    def noted(x: Tensor, weight: Tensor, *more: object) -> Tensor:
        seen.append((len(x), x.shape[1], len(weight)))
        return before(x, weight, *more)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", noted)
    yield seen


def assert_product(found: Tensor, a: Tensor, b: Tensor, c: Tensor | float = 0.0) -> None:
    """``c + a b``, with an error of a sum of n products in float32: at most (n + 1) ε Σ |a| |b|, and one ε of c."""
    exact = torch.as_tensor(c).double() + a.double() @ b.double()
    epsilon = torch.finfo(torch.float32).eps
    bound = epsilon * ((a.shape[1] + 1) * (a.double().abs() @ b.double().abs()) + 2 * exact.abs())
    assert bool(((found.double() - exact).abs() <= bound).all())


BIASES = {
    "numbers in a row": lambda: torch.randn(M),
    "every other number": lambda: torch.randn(M, 2)[:, 1],
    "one number many times": lambda: torch.randn(1).expand(M),
}


@pytest.mark.parametrize("layout", BIASES)
def test_a_bias_of_any_layout(layout: str) -> None:
    x, weight, bias = torch.randn(B, N), torch.randn(M, N), BIASES[layout]()
    assert_product(linear(x, weight, bias), x, weight.t(), bias)
    with faster_products():
        assert_product(torch.nn.functional.linear(x, weight, bias), x, weight.t(), bias)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: torch.addmm(torch.randn(B, M, dtype=torch.float64), torch.randn(B, N), torch.randn(N, M)),
        lambda: torch.addmm(torch.randn(1, B, M), torch.randn(B, N), torch.randn(N, M)),
        lambda: torch.addmm(torch.randn(M + 1), torch.randn(B, N), torch.randn(N, M)),
        lambda: torch.mm(torch.randn(B, N + 1), torch.randn(N, M)),
        lambda: torch.mm(torch.randn(B, N), torch.randn(N, M, dtype=torch.float64)),
    ],
    ids=["a sum of another type", "a sum of three axes", "a sum too long", "sizes", "types"],
)
def test_what_torch_refuses_is_refused(wrong: Callable[[], Tensor]) -> None:
    with faster_products(), pytest.raises(RuntimeError):
        wrong()


LAYOUTS = {
    "rows": lambda: torch.randn(M, N),
    "columns": lambda: torch.randn(N, M).t(),
    "rows of a wider matrix": lambda: torch.randn(M, N + 5)[:, :N],
    "columns of a wider matrix": lambda: torch.randn(N, M + 5)[:, 3 : M + 3].t(),
    "one row many times": lambda: torch.randn(1, N).expand(M, N),
    "one number many times": lambda: torch.randn(()).expand(M, N),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("turned", [False, True])
def test_a_product_of_any_layout(layout: str, turned: bool) -> None:
    weight, bias = LAYOUTS[layout](), torch.randn(M)
    x = torch.randn(N, B).t() if turned else torch.randn(B, N)
    assert_product(linear(x, weight), x, weight.t())
    assert_product(linear(x, weight, bias), x, weight.t(), bias)


def test_layers_within_give_the_same_values_and_gradients(given_to_onednn: list[tuple[int, ...]]) -> None:
    layer, x = torch.nn.Linear(N, M), torch.randn(B, N, requires_grad=True)

    def derivatives() -> list[Tensor]:
        y = layer(x)
        return [y.detach(), *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])]

    outside = derivatives()
    assert not given_to_onednn
    with faster_products():
        within = derivatives()
    assert sorted(given_to_onednn) == sorted([(B, N, M), (B, M, N), (M, B, N)])
    torch.testing.assert_close(within, outside)
    derivatives()
    assert len(given_to_onednn) == 3  # after it all is as before


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_sums_with_a_product(scale: float, given_to_onednn: list[tuple[int, ...]]) -> None:
    """A vector or a matrix is added to a product; another factor than 1 is torch's own affair."""
    a, b = torch.randn(B, N), torch.randn(N, M)
    for c in (torch.randn(M), torch.randn(B, M), torch.randn(B, 1), torch.randn(1)):
        with faster_products():
            assert_product(torch.addmm(c, a, b, alpha=scale), scale * a, b, c)
    assert bool(given_to_onednn) == (scale == 1.0)


def test_small_products_and_other_numbers_stay(given_to_onednn: list[tuple[int, ...]]) -> None:
    n = int(LARGE ** (1 / 3))
    pairs = [(torch.randn(n, n), torch.randn(n, n))]
    pairs += [
        (torch.randn(B, N).to(kind), torch.randn(N, M).to(kind)) for kind in (torch.float64, torch.half)
    ]
    pairs.append((torch.empty(0, 3), torch.randn(3, 2)))
    for a, b in pairs:
        outside = [a @ b, torch.addmm(b[0], a, b, beta=2)]
        with faster_products():
            within = [a @ b, torch.addmm(b[0], a, b, beta=2)]
        for found, expected in zip(within, outside, strict=True):
            assert torch.equal(found, expected)
    assert not given_to_onednn


def test_within_itself_and_after_an_error(given_to_onednn: list[tuple[int, ...]]) -> None:
    a, b = torch.randn(B, N), torch.randn(N, M)
    with faster_products():
        with pytest.raises(ZeroDivisionError), faster_products():
            1 / 0  # noqa: B018
        a @ b
    assert len(given_to_onednn) == 1
    a @ b
    assert len(given_to_onednn) == 1


def test_where_it_is_not_faster_nothing_changes(
    monkeypatch: pytest.MonkeyPatch, given_to_onednn: list[tuple[int, ...]]
) -> None:
    monkeypatch.setattr(products, "onednn_is_faster", lambda: False)
    with faster_products():
        torch.randn(B, N) @ torch.randn(N, M)
    assert not given_to_onednn and recorded_products() == {}


def test_a_recorded_graph_has_the_large_ones(given_to_onednn: list[tuple[int, ...]]) -> None:
    layer, x, small = torch.nn.Linear(N, M), torch.randn(B, N), torch.randn(N, 3)

    def work(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        y = torch.nn.functional.elu(torch.nn.functional.linear(x, weight, bias))
        return y, y @ weight, x @ small, torch.addmm(y, x, weight.t())

    inputs = [x, *(p.detach() for p in layer.parameters())]
    graph = make_fx(work, decomposition_table=recorded_products())(*inputs)
    calls = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    assert calls.count(torch.ops.advae.linear.default) == 3
    assert calls.count(torch.ops.aten.mm.default) == 1
    plain = make_fx(work)(*inputs)
    assert torch.ops.advae.linear.default not in [node.target for node in plain.graph.nodes]
    torch.testing.assert_close(graph(*inputs), work(*inputs))


@pytest.mark.parametrize(("mkl", "onednn", "taken"), [(2.0, 1.0, True), (1.2, 1.0, False), (1.0, 2.0, False)])
def test_only_much_faster_is_faster(
    mkl: float, onednn: float, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_best", lambda *ways: [mkl, onednn])
    monkeypatch.setattr(products, "onednn_gain", onednn_gain.__wrapped__)
    assert asked() is taken


def test_the_trial_is_one_of_float32_wherever_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def noted(*ways: Callable[[], Tensor]) -> list[float]:
        seen.extend(way().dtype for way in ways)
        return [1.0, 1.0]

    monkeypatch.setattr(products, "_best", noted)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert onednn_gain.__wrapped__() == 1
    finally:
        torch.set_default_dtype(torch.float32)
    assert seen == [torch.float32, torch.float32]


def test_a_torch_without_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: object) -> Tensor:
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'")

    monkeypatch.setattr(products, "linear", missing)
    assert onednn_gain.__wrapped__() == 0


def test_training_asks_for_it_but_in_bf16(given_to_onednn: list[tuple[int, ...]]) -> None:
    a, b = torch.randn(B, N), torch.randn(N, M)
    for precision, count in (("bf16-mixed", 0), ("32-true", 1)):
        fabric = Fabric(accelerator="cpu", devices=1, precision=precision)  # type: ignore[arg-type]
        with fast_products(fabric):
            a @ b
        assert len(given_to_onednn) == (0 if torch.cuda.is_available() else count)


def test_the_trial_leaves_the_threads_as_they_were() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        during: list[int] = []
        found = products._best(lambda: during.append(torch.get_num_threads()), lambda: None)
        assert set(during) == {1} and torch.get_num_threads() == 2
        assert len(found) == 2 and min(found) >= 0
    finally:
        torch.set_num_threads(before)
