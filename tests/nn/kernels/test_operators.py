"""The kernels as operators: in compiled and exported graphs, and one by one."""

import copy
import io
import warnings

import pytest
import torch
from norms import randomize_norms
from torch import nn

from skseg.convert import optimize_for_inference
from skseg.nn import SKConv2d, record_attention
from skseg.nn.dispatch import geometry_of
from skseg.nn.kernels import library, ops
from skseg.nn.kernels import operators as _registered  # noqa: F401

pytestmark = pytest.mark.skipif(
    not library.available(), reason="the kernels are not built or do not suit this CPU"
)
SK = torch.ops.skseg
UNITS = {
    "own convolutions": {"groups": 8},
    "strided": {"groups": 8, "stride": 2},
    "three branches": {"groups": 8, "branches": [(3, 1), (3, 2), (3, 3)]},
    "depthwise": {"groups": 32, "branches": [(5,), (7,)]},
    "depthwise, not fused": {"groups": 32, "branches": [(5,), (7,)], "act_layer": nn.SiLU},
}
FUSED = [name for name in UNITS if "not fused" not in name]


def make(name: str) -> tuple[SKConv2d, torch.Tensor]:
    torch.manual_seed(0)
    unit = SKConv2d(32, fuse_norm="layer", **UNITS[name])
    return randomize_norms(unit), torch.randn(3, 32, 12, 10)


def step(function, unit: SKConv2d, x: torch.Tensor) -> list[torch.Tensor]:
    """Forward and backward; the output, all gradients and the buffers."""
    leaf = x.clone().requires_grad_()
    out = function(leaf)
    out.square().mean().backward()
    return [out, leaf.grad, *(p.grad for p in unit.parameters()), *unit.buffers()]


def operators_of(graph: torch.fx.GraphModule) -> set[str]:
    return {
        str(node.target).split(".")[1]
        for module in graph.modules()
        if isinstance(module, torch.fx.GraphModule)
        for node in module.graph.nodes
        if str(node.target).startswith("skseg.")
    }


class Keep:
    """A backend of torch.compile that keeps the graphs, and runs them through AOTAutograd."""

    def __init__(self) -> None:
        self.operators: set[str] = set()

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[torch.Tensor]):
        from torch._dynamo.backends.common import aot_autograd

        def keep(module: torch.fx.GraphModule, _inputs: list[torch.Tensor]):
            self.operators |= operators_of(module)
            return module

        return aot_autograd(fw_compiler=keep, bw_compiler=keep)(graph, inputs)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", UNITS)
def test_a_compiled_unit_is_the_eager_one(name: str, training: bool) -> None:
    torch._dynamo.reset()
    unit, x = make(name)
    unit.train(training)
    eager, compiled, keep = copy.deepcopy(unit), copy.deepcopy(unit), Keep()
    expected = step(eager, eager, x)
    found = step(torch.compile(compiled, fullgraph=True, backend=keep), compiled, x)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    if name in FUSED:
        assert {"split", "select", "split_backward", "select_backward"} <= keep.operators
    else:
        assert {"depthwise_conv", "depthwise_gradient"} <= keep.operators


@pytest.mark.slow
@pytest.mark.parametrize("name", ["own convolutions", "strided"])
def test_inductor_keeps_the_layout_of_maps(name: str) -> None:
    torch._dynamo.reset()
    unit, x = make(name)
    eager, compiled = copy.deepcopy(unit), copy.deepcopy(unit)
    expected = step(eager, eager, x)
    found = step(torch.compile(compiled, fullgraph=True), compiled, x)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_other_sizes_need_no_new_graph() -> None:
    torch._dynamo.reset()
    unit, x = make("own convolutions")
    unit.eval()
    compiled = torch.compile(unit, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in ((12, 10), (7, 9), (20, 33)):
        x = torch.randn(2, 32, *size)
        torch.testing.assert_close(compiled(x), unit(x))


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("name", FUSED)
def test_an_exported_unit_goes_through_a_file(name: str, folded: bool) -> None:
    unit, x = make(name)
    module = optimize_for_inference(unit) if folded else unit.eval()
    expected = module(x)
    exported = torch.export.export(
        module, (x,), dynamic_shapes=({2: torch.export.Dim("height", min=4, max=64)},)
    )
    names = {"split_folded", "select_folded"} if folded else {"split", "select"}
    assert operators_of(exported.graph_module) == names
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    again = torch.export.load(file).module()
    torch.testing.assert_close(again(x), expected)
    torch.testing.assert_close(again(x[:, :, :7]), module(x[:, :, :7]))


def test_without_the_kernels_graphs_are_torchs() -> None:
    unit, x = make("own convolutions")
    unit.eval()
    with library.disabled():
        exported = torch.export.export(unit, (x,))
    assert not operators_of(exported.graph_module)
    torch.testing.assert_close(exported.module()(x), unit(x), rtol=1e-4, atol=1e-5)
    scripted_or_traced = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        scripted_or_traced = [torch.jit.script(unit), torch.jit.trace(unit, x)]
    for module in scripted_or_traced:
        assert "skseg::" not in str(module.inlined_graph)


def test_compiled_units_under_autocast_are_torchs() -> None:
    torch._dynamo.reset()
    unit, x = make("own convolutions")
    unit.eval()
    keep = Keep()
    compiled = torch.compile(unit, fullgraph=True, backend=keep)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        low = compiled(x)
        expected = unit(x)
    assert low.dtype is expected.dtype is torch.bfloat16
    assert not keep.operators
    torch.testing.assert_close(low, expected, rtol=0.05, atol=0.05)


def test_fake_tensors_run_through_the_operators() -> None:
    from torch._subclasses import FakeTensorMode

    unit, x = make("strided")
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        out = unit(mode.from_tensor(x))
    assert out.shape == (3, 32, 6, 5)
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_input_gradients_of_a_folded_unit_are_torchs() -> None:
    unit, x = make("own convolutions")
    folded = optimize_for_inference(unit)
    grads = []
    for module in (folded, unit.eval()):
        leaf = x.clone().requires_grad_()
        module(leaf).square().mean().backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads, rtol=1e-3, atol=1e-6)


def test_the_second_half_may_see_an_attention_of_its_own() -> None:
    """A hook that fixes the attention cuts the path through the pooled features."""
    unit, x = make("own convolutions")
    weights = torch.rand(3, 2, 32).softmax(1)
    grads = []
    for fast in (True, False):
        own, leaf = copy.deepcopy(unit), x.clone().requires_grad_()
        own.attn.register_forward_hook(lambda *_: weights)
        if fast:
            own(leaf).square().mean().backward()
        else:
            with library.disabled():
                own(leaf).square().mean().backward()
        grads.append([leaf.grad, own.paths[0].conv.weight.grad, own.paths[1].bn.weight.grad])
        assert own.attn.fc_select.weight.grad is None
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def arguments(name: str) -> dict[str, tuple]:
    """Arguments of every operator, as a unit would pass them."""
    unit, x = make(name)
    x = x.contiguous(memory_format=torch.channels_last)
    convs, norms = [p.conv for p in unit.paths], [p.bn for p in unit.paths]
    geometry = geometry_of(convs)
    compiled = name == "own convolutions"
    depthwise = [name == "depthwise"] * 2
    weights = [c.weight.detach().requires_grad_() for c in convs]
    by_batch = [True, False]
    first = (
        *(x.requires_grad_(), weights, geometry, compiled, depthwise),
        [n.weight.detach().requires_grad_() for n in norms],
        [n.bias.detach().requires_grad_() for n in norms],
        *([1e-5, 1e-3], by_batch, [norms[1].running_mean, norms[1].running_var]),
    )
    with torch.no_grad():
        pooled, maps, statistics, link = SK.split(*first)
    attention = torch.rand(3, 2, 32).softmax(1).requires_grad_()
    maps[0].requires_grad_()
    plain = [w.detach() for w in weights]
    folded = [ops.pack(w) for w in plain] if compiled else plain
    grad = torch.randn_like(maps[0])
    return {
        "split": first,
        "select": (maps, attention, statistics, torch.zeros_like(link).requires_grad_()),
        "select_backward": (maps, attention.detach(), statistics, grad),
        "split_backward": (
            *(x.detach(), plain, geometry, compiled, depthwise, by_batch),
            *([m.detach() for m in maps], statistics, pooled, grad, torch.rand(5, 3, 2, 32)),
            *(True, True),
        ),
        "update_running": (torch.zeros(32), torch.ones(32), statistics, 1, 0.1, 360),
        "split_folded": (x.detach(), folded, geometry, compiled, statistics),
        "select_folded": ([m.detach() for m in maps], attention.detach(), None),
    }


@pytest.mark.parametrize("name", ["own convolutions", "strided", "depthwise"])
@pytest.mark.parametrize(
    "operator",
    [
        *("split", "select", "split_backward", "select_backward"),
        *("update_running", "split_folded", "select_folded"),
    ],
)
def test_operators_keep_the_rules_of_torch(operator: str, name: str) -> None:
    torch.library.opcheck(getattr(SK, operator).default, arguments(name)[operator])


def test_depthwise_operators_keep_the_rules_of_torch() -> None:
    x, weight = torch.randn(2, 8, 9, 9), torch.randn(8, 1, 5, 5)
    geometry = [2, 2, 2, 2, 1, 1]
    grad = torch.randn(2, 8, 5, 5)
    torch.library.opcheck(SK.depthwise_gradient.default, (x, grad, 5, geometry))
    torch.library.opcheck(
        SK.depthwise_conv.default, (x.requires_grad_(), weight.requires_grad_(), geometry)
    )


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda a: (a[0].detach().contiguous(), *a[1:]), ValueError),
        (lambda a: (a[0].detach().double(), *a[1:]), (TypeError, ValueError)),
        (lambda a: (a[0].detach()[:, :16], *a[1:]), ValueError),
        (lambda a: (*a[:2], [2, 2, 1, 1, 1, 1] * 2, *a[3:]), ValueError),
        (lambda a: (*a[:7], a[7], [True, True], []), None),
    ],
    ids=["layout", "dtype", "channels", "stride", "nothing"],
)
def test_an_operator_refuses_what_its_kernels_would_misread(change, error) -> None:
    given = change(arguments("own convolutions")["split"])
    if error is None:
        SK.split(*given)
        return
    with pytest.raises(error):
        SK.split(*given)


def test_attention_of_a_compiled_unit_is_recorded() -> None:
    torch._dynamo.reset()
    unit, x = make("own convolutions")
    unit.eval()
    compiled = torch.compile(unit, backend="eager")
    with record_attention(unit) as fast, torch.no_grad():
        compiled(x)
    with record_attention(unit) as eager, torch.no_grad():
        unit(x)
    torch.testing.assert_close(fast[""], eager[""])
