"""SK units on the compiled kernels against torch's own operations in float64."""

import copy
import io
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from closeness import relative
from norms import randomize_norms
from torch import nn
from torch.utils.checkpoint import checkpoint

from skseg.convert import optimize_for_inference
from skseg.nn import SKConv2d, record_attention
from skseg.nn.blocks import paths_of
from skseg.nn.dispatch import convolve, uses_kernels
from skseg.nn.kernels import library
from skseg.nn.kernels import ops as kernels

needs_kernels = pytest.mark.skipif(
    not library.available(), reason="the kernels are not built or do not suit this CPU"
)
pytestmark = needs_kernels


def is_fusable(unit: SKConv2d, x: torch.Tensor) -> bool:
    return uses_kernels(unit, paths_of(unit), x)


@pytest.mark.parametrize("select", ["attention", "mean"])
@pytest.mark.parametrize("act", [nn.ReLU, nn.ReLU6, nn.SiLU])
def test_a_depthwise_unit_and_all_gradients_equal_torch(act: type, select: str) -> None:
    """Two branches of a converted network: of the fused unit, and of one that is not."""
    torch.manual_seed(0)
    unit = SKConv2d(
        *(32, 32),
        **{"stride": 2, "groups": 32, "branches": [(5,), (7,)], "fuse_norm": "layer"},
        **{"act_layer": act, "select": select},
    )
    randomize_norms(unit)
    x = torch.randn(3, 32, 20, 17)
    grad = torch.randn(3, 32, 10, 9)
    grads = {}
    for kind in ("kernels", "torch"):
        own, leaf = copy.deepcopy(unit), x.clone().requires_grad_()
        if kind == "torch":
            own, leaf = own.double(), x.double().requires_grad_()
        own(leaf).backward(grad.to(leaf))
        grads[kind] = [leaf.grad, *(p.grad for p in own.parameters())]
    for value, expected in zip(grads["kernels"], grads["torch"], strict=True):
        assert relative(value, expected) < 2e-4


def test_torch_convolves_what_is_not_depthwise_or_has_hooks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    original = kernels.depthwise_gradient
    monkeypatch.setattr(
        kernels, "depthwise_gradient", lambda *args: calls.append(1) or original(*args)
    )

    def count(conv: nn.Conv2d, x: torch.Tensor) -> int:
        calls.clear()
        convolve(conv, x).sum().backward()
        return len(calls)

    x = torch.randn(2, 8, 9, 9)
    assert count(nn.Conv2d(8, 8, 5, groups=8, bias=False), x) == 1
    assert count(nn.Conv2d(8, 8, 5, groups=8), x) == 0  # a bias
    assert count(nn.Conv2d(8, 16, 5, groups=8, bias=False), x) == 0
    assert count(nn.Conv2d(8, 8, (3, 5), groups=8, bias=False), x) == 0
    assert count(nn.Conv2d(8, 8, 5, padding="same", groups=8, bias=False), x) == 0
    assert count(nn.Conv2d(8, 8, 5, groups=8, bias=False).double(), x.double()) == 0
    watched, seen = nn.Conv2d(8, 8, 5, groups=8, bias=False), []
    watched.register_forward_hook(lambda *args: seen.append(1))
    assert count(watched, x) == 0
    assert seen == [1]
    frozen = nn.Conv2d(8, 8, 5, groups=8, bias=False).requires_grad_(False)
    assert count(frozen, x.clone().requires_grad_()) == 0
    with library.disabled():
        assert count(nn.Conv2d(8, 8, 5, groups=8, bias=False), x) == 0


# Batches of more than two, since Fuse's batch norm of two vectors magnifies every difference.
UNITS = {
    "four a group": ({"groups": 8}, (3, 32, 20, 17)),
    "eight a group": ({"groups": 4}, (3, 32, 9, 18)),
    "dense": ({"groups": 1}, (4, 16, 7, 7)),
    "layer norm": ({"groups": 8, "fuse_norm": "layer"}, (4, 32, 9, 9)),
    "three branches": ({"groups": 8, "branches": [(3, 1), (3, 2), (3, 3)]}, (4, 32, 12, 33)),
    "dilated": ({"groups": 8, "dilation": 4}, (4, 32, 10, 11)),
    "stride 2": ({"groups": 8, "stride": 2}, (4, 32, 9, 12)),
    "more channels": ({"out_channels": 64, "groups": 8}, (3, 32, 8, 8)),
    "kernels of 3 and 5": ({"groups": 8, "branches": [(3,), (5,)]}, (4, 32, 9, 7)),
    "groups that differ": ({"branches": [(3, 1, 4), (3, 1, 8)]}, (4, 32, 8, 8)),
    "biased fuse": ({"groups": 8, "fuse_bias": True, "fuse_norm": "none"}, (4, 32, 6, 6)),
}


@pytest.mark.parametrize("mode", ["train", "eval", "one norm frozen"])
@pytest.mark.parametrize("case", UNITS)
def test_unit_and_all_gradients_equal_torch(case: str, mode: str) -> None:
    """As near to float64 as torch's own float32, within its scatter."""
    arguments, shape = UNITS[case]
    torch.manual_seed(1)
    unit = SKConv2d(shape[1], **arguments)
    randomize_norms(unit.paths, spread=1.0)
    reference = copy.deepcopy(unit).double()
    plain = copy.deepcopy(unit)
    x = torch.randn(shape)
    grad = torch.randn_like(reference.eval()(x.double()), dtype=torch.float32)
    results = []
    for module in (unit, reference, plain):
        module.train(mode != "eval")
        if mode == "one norm frozen":
            module.paths[1].bn.eval()
        dtype = module.paths[0].conv.weight.dtype
        leaf = x.clone().to(dtype).requires_grad_()
        if module is plain:
            with library.disabled():
                assert not is_fusable(module, leaf)
                out = module(leaf)
        else:
            assert is_fusable(module, leaf) == (module is unit)
            out = module(leaf)
        out.backward(grad.to(dtype))
        gradients = [p.grad for p in module.parameters()]
        results.append([out, leaf.grad, *gradients, *module.buffers()])
    for i, (mine, exact, torchs) in enumerate(zip(*results, strict=True)):
        scatter = (torchs - exact).abs().max()
        allowed = max(2e-5 * exact.abs().max(), 10 * scatter) + 1e-7
        assert (mine - exact).abs().max() <= allowed, i


@pytest.mark.skipif(library.LANES != 16, reason="this CPU has no AVX-512 beside AVX2")
@pytest.mark.parametrize("case", UNITS)
def test_avx2_equals_avx512(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, shape = UNITS[case]
    torch.manual_seed(1)
    unit = SKConv2d(shape[1], **arguments)
    randomize_norms(unit.paths, spread=1.0)
    x = torch.randn(shape)
    grad = torch.randn_like(copy.deepcopy(unit).double().eval()(x.double()), dtype=torch.float32)
    results = []
    for lanes in (8, 16):
        monkeypatch.setattr(library, "LANES", lanes)
        module, leaf = copy.deepcopy(unit), x.clone().requires_grad_()
        assert is_fusable(module, leaf)
        module.eval()(leaf).backward(grad)
        results.append([leaf.grad, *(p.grad for p in module.parameters())])
    for narrow, wide in zip(*results, strict=True):
        assert (narrow - wide).abs().max() <= 1e-5 * wide.abs().max()


def test_a_wrong_input_is_torchs_error_and_never_read() -> None:
    unit = SKConv2d(32, groups=8)
    folded = optimize_for_inference(unit)
    wrong = {
        "64 channels": torch.randn(2, 64, 8, 8),
        "16 channels": torch.randn(2, 16, 8, 8),
        "no batch": torch.randn(32, 8),
    }
    for x in wrong.values():
        for module in (unit, folded):
            with pytest.raises(RuntimeError):
                module(x)
    for module in (copy.deepcopy(unit).double(), copy.deepcopy(folded).double()):
        with pytest.raises(RuntimeError, match=r"type|dtype"):
            module(torch.randn(2, 32, 8, 8))


def test_it_keeps_three_maps_for_backward() -> None:
    x = torch.randn(2, 32, 64, 64, requires_grad=True)
    unit = SKConv2d(32, groups=8)
    kept: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = unit(x)
    for p in unit.parameters():
        kept.pop(p.untyped_storage().data_ptr(), None)
    assert sum(kept.values()) / (x.numel() * 4) < 3.1
    out.sum().backward()


def test_one_module_used_twice_and_checkpointing() -> None:
    torch.manual_seed(0)
    unit = SKConv2d(32, groups=8, fuse_norm="layer")
    x = torch.randn(2, 32, 9, 9)

    def gradients(run) -> list[torch.Tensor]:  # type: ignore[no-untyped-def]
        model = copy.deepcopy(unit)
        leaf = x.clone().requires_grad_()
        run(model, leaf).square().mean().backward()
        return [leaf.grad, *(p.grad for p in model.parameters())]

    with library.disabled():
        expected = gradients(lambda m, t: m(m(t)))
    twice = gradients(lambda m, t: m(m(t)))
    checkpointed = gradients(
        lambda m, t: checkpoint(m, checkpoint(m, t, use_reentrant=False), use_reentrant=False)
    )
    for mine, again, other in zip(twice, checkpointed, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(again, mine, rtol=1e-5, atol=1e-8)


def test_attention_is_recorded_and_inner_hooks_still_run() -> None:
    unit = SKConv2d(32, groups=8).eval()
    x = torch.randn(2, 32, 9, 9)
    with record_attention(unit) as fast:
        unit(x)
    with record_attention(unit) as slow, library.disabled():
        unit(x)
    torch.testing.assert_close(fast[""], slow[""])
    seen = []
    handle = unit.paths[0].conv.register_forward_hook(lambda *_: seen.append(1))
    assert not is_fusable(unit, x)
    unit(x)
    assert seen == [1]
    handle.remove()
    assert is_fusable(unit, x)
    unit.paths[0].conv.register_full_backward_pre_hook(lambda *_: seen.append(2))
    unit(x).sum().backward()
    assert seen == [1, 2]


@pytest.mark.parametrize(
    "unit",
    [
        SKConv2d(32, groups=8, split_input=True),
        SKConv2d(32, groups=8, act_layer=nn.SiLU),
        SKConv2d(32, groups=8, bias=True),
        SKConv2d(32, groups=8, norm_layer=lambda c: nn.GroupNorm(4, c)),
        SKConv2d(24, groups=4 if library.LANES == 16 else 6, branches=[(3, 1, 2), (3, 2)]),
        SKConv2d(32, groups=8, select="sum"),
    ],
    ids=lambda u: u.extra_repr(),
)
def test_units_without_kernels_run_on_torch(unit: SKConv2d) -> None:
    x = torch.randn(2, unit.in_channels, 8, 8)
    assert not is_fusable(unit, x)
    unit(x).mean().backward()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_run_on_torch(dtype: torch.dtype) -> None:
    unit = SKConv2d(32, groups=8, fuse_norm="layer").to(dtype)
    x = torch.randn(2, 32, 8, 8, dtype=dtype)
    assert not is_fusable(unit, x)
    assert unit(x).dtype is dtype
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_fusable(SKConv2d(32, groups=8), torch.randn(2, 32, 8, 8))


def test_norms_of_another_dtype_and_padding_run_on_torch() -> None:
    x = torch.randn(2, 32, 8, 8)
    for part, change in (
        ("bn", lambda bn: bn.double()),
        ("conv", lambda conv: setattr(conv, "padding_mode", "reflect")),
        ("conv", lambda conv: setattr(conv, "padding", "same")),
    ):
        unit = SKConv2d(32, groups=8)
        assert is_fusable(unit, x)
        change(getattr(unit.paths[1], part))
        assert not is_fusable(unit, x)


def test_any_memory_format_and_slices() -> None:
    torch.manual_seed(0)
    unit = SKConv2d(32, groups=8).eval()
    big = torch.randn(4, 64, 12, 20)
    for x in (big[:, :32], big[1:3, 32:, ::2, 1:], big.permute(0, 1, 3, 2)[:, 16:48]):
        with library.disabled():
            expected = unit(x)
        torch.testing.assert_close(unit(x), expected, rtol=1e-4, atol=1e-5)


def test_the_same_bits_every_time() -> None:
    torch.manual_seed(0)
    unit = SKConv2d(64, groups=16)
    x = torch.randn(3, 64, 33, 20)
    runs = []
    for _ in range(3):
        model = copy.deepcopy(unit)
        leaf = x.clone().requires_grad_()
        model(leaf).square().sum().backward()
        runs.append([leaf.grad, *(p.grad for p in model.parameters())])
    for a, b, c in zip(*runs, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_backward_twice_through_one_graph() -> None:
    unit = SKConv2d(32, groups=8)
    x = torch.randn(2, 32, 8, 8, requires_grad=True)
    out = unit(x).square().sum()
    first = torch.autograd.grad(out, x, retain_graph=True)
    second = torch.autograd.grad(out, x)
    assert torch.equal(first[0], second[0])


def test_frozen_input_and_frozen_weights() -> None:
    unit = SKConv2d(32, groups=8)
    x = torch.randn(2, 32, 8, 8)
    unit(x).sum().backward()  # the input wants no gradient
    assert unit.paths[0].conv.weight.grad is not None
    unit.requires_grad_(False)
    leaf = x.clone().requires_grad_()
    unit(leaf).sum().backward()
    assert leaf.grad is not None


def test_a_unit_is_saved_and_loaded() -> None:
    unit = SKConv2d(32, groups=8).eval()
    file = io.BytesIO()
    torch.save(unit.state_dict(), file)
    file.seek(0)
    other = SKConv2d(32, groups=8).eval()
    other.load_state_dict(torch.load(file, weights_only=True))
    x = torch.randn(1, 32, 8, 8)
    assert torch.equal(unit(x), other(x))


def shards() -> tuple[SKConv2d, tuple[torch.Tensor, ...]]:
    torch.manual_seed(0)
    unit = SKConv2d(32, groups=4, fuse_norm="layer")
    return unit, torch.randn(6, 32, 11, 9).chunk(2)


def gradients(module: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    module(x).square().sum().backward()
    return [p.grad.clone() for p in module.parameters()]


def train_in_one_of_two_processes(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    unit, parts = shards()
    if rank == 1:  # DDP gives process 0's to all
        nn.init.zeros_(unit.paths[0].conv.weight)
    parallel = nn.parallel.DistributedDataParallel(unit)
    assert is_fusable(unit, parts[rank])
    torch.save(gradients(parallel, parts[rank]), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_have_the_mean_of_their_gradients(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(train_in_one_of_two_processes, (tmp_path,), nprocs=2)
    unit, parts = shards()
    with library.disabled():
        alone = [gradients(copy.deepcopy(unit), part) for part in parts]
    for rank in (0, 1):
        found = torch.load(tmp_path / f"{rank}.pt")
        for gradient, *expected in zip(found, *alone, strict=True):
            assert relative(gradient, torch.stack(expected).double().mean(0)) < 1e-5
