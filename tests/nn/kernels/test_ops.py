"""The compiled kernels one by one, against torch's own operations in float64."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from closeness import relative
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from skseg.nn.kernels import library
from skseg.nn.kernels import ops as kernels

pytestmark = pytest.mark.skipif(
    not library.available(), reason="the kernels are not built or do not suit this CPU"
)


@given(
    channels_a_group=st.sampled_from([4, 8, 16, 32]),
    blocks=st.integers(1, 2),
    lanes=st.sampled_from([8, 16] if library.LANES == 16 else [8]),
    batch=st.integers(1, 3),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    dilations=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_convolutions_and_their_gradients(
    channels_a_group, blocks, lanes, batch, height, width, dilations, seed
) -> None:
    channels = 32 * blocks
    groups = channels // channels_a_group
    torch.manual_seed(seed)
    x = torch.randn(batch, channels, height, width).contiguous(memory_format=torch.channels_last)
    weights = [torch.randn(channels, channels_a_group, 3, 3) for _ in dilations]
    grad = torch.randn_like(x)
    leaf = x.double().requires_grad_()
    leaves = [w.double().requires_grad_() for w in weights]
    expected = [
        torch.conv2d(leaf, w, None, 1, d, d, groups) for w, d in zip(leaves, dilations, strict=True)
    ]
    torch.autograd.backward(expected, [grad.double()] * len(dilations))
    ones = torch.ones(batch, len(dilations), channels)
    zeros = torch.zeros_like(ones)
    # Norms and ReLU that pass everything, and an attention of 1.
    norms = torch.stack([zeros[0], ones[0], zeros[0], ones[0], ones[0]])
    found = kernels.NormGradients(ones, zeros, *[zeros[0]] * 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "LANES", lanes)
        maps, sums, pooled = kernels.conv(x, [kernels.pack(w) for w in weights], dilations)
        d_x, d_weights = kernels.backward(
            x, weights, dilations, maps, norms, grad, found, (True, True)
        )
    assert relative(d_x, leaf.grad) < 1e-5
    assert (pooled - sum(expected).mean((2, 3))).abs().max() < 1e-5 * channels_a_group
    for m in range(len(dilations)):
        assert relative(maps[m], expected[m]) < 1e-5
        assert relative(d_weights[m], leaves[m].grad) < 1e-5
        assert relative(sums.sum(1)[:, m, 1], expected[m].square().sum((2, 3))) < 1e-5


@given(
    kernel=st.sampled_from([3, 5, 7, 9]),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 3),
    padding=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    lanes=st.sampled_from([8, 16] if library.LANES == 16 else [8]),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 37), st.integers(1, 30), st.integers(1, 30)),
    formats=st.tuples(*[st.sampled_from([torch.contiguous_format, torch.channels_last])] * 2),
    seed=st.integers(0, 1000),
)
@settings(max_examples=100, deadline=None)
def test_gradient_of_a_depthwise_weight(
    kernel, stride, dilation, padding, lanes, shape, formats, seed
) -> None:
    reach = (kernel - 1) * dilation
    assume(all(side + 2 * p > reach for side, p in zip(shape[2:], padding, strict=True)))
    torch.manual_seed(seed)
    channels = shape[1]
    conv = nn.Conv2d(
        channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False
    )
    x = torch.randn(shape).contiguous(memory_format=formats[0])
    exact = copy.deepcopy(conv).double()
    out = exact(x.double())
    grad = torch.randn(out.shape).contiguous(memory_format=formats[1])
    out.backward(grad.double())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "LANES", lanes)
        found = kernels.depthwise_gradient(x, grad, kernel, stride, padding, dilation)
    assert found.shape == conv.weight.shape
    assert (found - exact.weight.grad).abs().max() < 1e-4  # of sums of up to 2700 products


def a_map(channels: int = 32) -> torch.Tensor:
    return torch.randn(2, channels, 5, 4).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: kernels.sums([a_map().double()]), TypeError, "float32.*float64"),
        (lambda: kernels.sums([a_map().contiguous()]), ValueError, "channels last"),
        (lambda: kernels.sums([a_map(), a_map(64)]), ValueError, r"of one shape.*\[2, 64, 5, 4\]"),
        (lambda: kernels.sums([a_map(20)]), ValueError, "channels, got 20"),
        (lambda: kernels.sums([a_map()[:0]]), ValueError, "not empty"),
        (lambda: kernels.sums([]), ValueError, "got 0"),
        (lambda: kernels.sums([a_map()] * 9), ValueError, "1 to 8 branches, got 9"),
        (
            lambda: kernels.select([a_map()], torch.ones(2, 2, 32)),
            ValueError,
            r"attention must be .*\[2, 1, 32\]",
        ),
        (
            lambda: kernels.select([a_map()], torch.ones(2, 1, 1).expand(2, 1, 32)),
            ValueError,
            "attention must be contiguous",
        ),
        (
            lambda: kernels.select([a_map()], torch.ones(2, 1, 32), torch.ones(1, 32)),
            ValueError,
            r"norms must be .*\[5, 1, 32\]",
        ),
        (lambda: kernels.pack(torch.ones(32, 5, 3, 3)), ValueError, "got 5 of 32"),
        (lambda: kernels.pack(torch.ones(32, 4, 5, 5)), ValueError, r"\[32, 4, 3, 3\]"),
        (
            lambda: kernels.conv(a_map(), [kernels.pack(torch.ones(32, 4, 3, 3))], [5]),
            ValueError,
            r"1 to 4, got \[5\]",
        ),
        (
            lambda: kernels.conv(a_map(64), [kernels.pack(torch.ones(32, 4, 3, 3))], [1]),
            ValueError,
            "a packed weight",
        ),
        (
            lambda: kernels.depthwise_gradient(a_map(), a_map(), 4, 1, (1, 1), 1),
            ValueError,
            "kernel_size",
        ),
        (
            lambda: kernels.depthwise_gradient(a_map(), a_map(), 3, 1, (0, 0), 1),
            ValueError,
            r"grad must be of shape \[2, 32, 3, 2\]",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_kernels_would_misread_is_refused(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()


def test_a_wrong_argument_is_a_type_error() -> None:
    out = torch.empty(2, 1, 1, 2, 32)
    with pytest.raises(TypeError, match="arguments, got 1"):
        library.call("sk_sums", 1)
    with pytest.raises(TypeError):
        library.call("sk_sums", 1, [a_map()], out, 2, 20, 32, 1.5)
    with pytest.raises(TypeError):
        library.call("sk_sums", 1, [a_map()], 12345, 2, 20, 32, 1)


TOO_LARGE = """
import resource
import torch
from skseg.nn.kernels import ops
torch.set_num_threads(1)
small = torch.randn(1, 16, 3, 8)
ops.depthwise_gradient(small, small, 3, 1, (1, 1), 1)  # starts what OpenMP needs
x = torch.randn(1, 16, 1, 1 << 20)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 24), resource.RLIM_INFINITY))
try:
    ops.depthwise_gradient(x, x, 3, 1, (1, 1), 1)
except MemoryError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_a_kernel_without_memory_is_a_memory_error() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TOO_LARGE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "sk_depthwise_grad" in done.stdout


@pytest.mark.parametrize("version", ["", "int sk_version(void) { return 1; }"])
def test_a_library_of_another_version_is_not_loaded(version: str, tmp_path: Path) -> None:
    """Such as an update of the code without a new build leaves behind."""
    (tmp_path / "old.c").write_text(f"{version} int sk_lanes(void) {{ return 8; }}")
    command = ["cc", "-shared", "-fPIC", "old.c", "-o", "_sk.so"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert library._open(tmp_path) == ({}, 0)
