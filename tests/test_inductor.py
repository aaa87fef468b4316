"""Float32 products by oneDNN: correct for every layout, and only inside traced graphs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from advae import devices, inductor
from advae.devices import cpu_vendor, matmul_library, prefers_onednn
from advae.inductor import MIN_MULTIPLICATIONS, decompositions, onednn_linear

pytestmark = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")),
    reason="this PyTorch was built without oneDNN",
)

B, N, M = 64, 200, 160  # B · N · M is above MIN_MULTIPLICATIONS


@pytest.fixture
def onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decompositions as on a machine that prefers oneDNN."""
    monkeypatch.setattr(inductor, "prefers_onednn", lambda: True)


@pytest.fixture
def onednn_shapes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, ...]]]:
    """Shapes of the products that oneDNN computes."""
    shapes: list[tuple[int, ...]] = []
    original = torch.ops.mkldnn._linear_pointwise

    def record(x: Tensor, weight: Tensor, *args: object) -> Tensor:
        shapes.append((len(x), x.shape[1], len(weight)))
        return original(x, weight, *args)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", record)
    yield shapes


def assert_product(output: Tensor, a: Tensor, b: Tensor, c: Tensor | float = 0.0) -> None:
    """Compare with ``c + a b``. A sum of n products in float32 has error ≤ (n + 1) ε Σ |a| |b|, plus ε |c|."""
    exact = torch.as_tensor(c).double() + a.double() @ b.double()
    epsilon = torch.finfo(torch.float32).eps
    bound = epsilon * ((a.shape[1] + 1) * (a.double().abs() @ b.double().abs()) + 2 * exact.abs())
    assert bool(((output.double() - exact).abs() <= bound).all())


BIASES = {
    "contiguous": lambda: torch.randn(M),
    "strided": lambda: torch.randn(M, 2)[:, 1],
    "expanded": lambda: torch.randn(1).expand(M),
}

LAYOUTS = {
    "rows": lambda: torch.randn(M, N),
    "columns": lambda: torch.randn(N, M).t(),
    "rows of a wider matrix": lambda: torch.randn(M, N + 5)[:, :N],
    "columns of a wider matrix": lambda: torch.randn(N, M + 5)[:, 3 : M + 3].t(),
    "expanded row": lambda: torch.randn(1, N).expand(M, N),
    "expanded scalar": lambda: torch.randn(()).expand(M, N),
}


@pytest.mark.parametrize("layout", BIASES)
def test_bias_layouts(layout: str) -> None:
    x, weight, bias = torch.randn(B, N), torch.randn(M, N), BIASES[layout]()
    assert_product(onednn_linear(x, weight, bias), x, weight.t(), bias)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("is_transposed", [False, True])
def test_matrix_layouts(layout: str, is_transposed: bool) -> None:
    weight, bias = LAYOUTS[layout](), torch.randn(M)
    x = torch.randn(N, B).t() if is_transposed else torch.randn(B, N)
    assert_product(onednn_linear(x, weight), x, weight.t())
    assert_product(onednn_linear(x, weight, bias), x, weight.t(), bias)


def test_traced_layer_has_the_same_value_and_gradients(
    onednn: None, onednn_shapes: list[tuple[int, ...]]
) -> None:
    layer, x = torch.nn.Linear(N, M), torch.randn(B, N, requires_grad=True)

    def derivatives(x: Tensor, weight: Tensor, bias: Tensor) -> list[Tensor]:
        y = torch.nn.functional.linear(x, weight, bias)
        return [y.detach(), *torch.autograd.grad(y.square().sum(), [x, weight, bias])]

    inputs = (x, layer.weight, layer.bias)
    expected = derivatives(*inputs)
    assert not onednn_shapes, "outside of traced graphs PyTorch is as it was"
    graph = make_fx(derivatives, decomposition_table=decompositions())(*inputs)
    onednn_shapes.clear()
    torch.testing.assert_close(graph(*inputs), expected)
    assert sorted(onednn_shapes) == sorted([(B, N, M), (B, M, N), (M, B, N)])


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_addmm_with_every_shape_of_summand(
    alpha: float, onednn: None, onednn_shapes: list[tuple[int, ...]]
) -> None:
    """oneDNN computes c + a b; with another factor PyTorch's operation stays."""
    a, b = torch.randn(B, N), torch.randn(N, M)
    for c in (torch.randn(M), torch.randn(B, M), torch.randn(B, 1), torch.randn(1)):
        graph = make_fx(
            lambda c, a, b: torch.addmm(c, a, b, alpha=alpha), decomposition_table=decompositions()
        )(c, a, b)
        assert_product(graph(c, a, b), alpha * a, b, c)
    assert bool(onednn_shapes) == (alpha == 1.0)


def test_small_products_and_other_dtypes_stay(onednn: None, onednn_shapes: list[tuple[int, ...]]) -> None:
    n = int(MIN_MULTIPLICATIONS ** (1 / 3))
    pairs = [(torch.randn(n, n), torch.randn(n, n))]
    pairs += [
        (torch.randn(B, N, dtype=dtype), torch.randn(N, M, dtype=dtype))
        for dtype in (torch.float64, torch.bfloat16)
    ]
    for a, b in pairs:
        graph = make_fx(torch.mm, decomposition_table=decompositions())(a, b)
        assert torch.equal(graph(a, b), a @ b)
    assert not onednn_shapes


@pytest.mark.parametrize(
    ("vendor", "capability", "expected"),
    [
        ("AuthenticAMD", "AVX512", True),
        ("AuthenticAMD", "AVX2", False),
        ("GenuineIntel", "AVX512", False),
        ("", "DEFAULT", False),
    ],
)
def test_library_depends_on_the_processor_alone(
    vendor: str, capability: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "cpu_vendor", lambda: vendor)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert prefers_onednn() is expected
    assert (matmul_library() == "oneDNN") is expected
    assert bool(decompositions()) is expected


def test_vendor_is_a_name_or_empty() -> None:
    assert isinstance(cpu_vendor(), str) and cpu_vendor() == cpu_vendor().strip()
