"""The library of compiled kernels: load it, and call its functions on torch tensors."""

import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ctypes import c_float, c_int, c_void_p
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class _Floats:
    """Argument type of the kernels: a float32 CPU tensor, an address, or None for NULL."""

    @staticmethod
    def from_param(tensor: Tensor | c_void_p | None) -> c_void_p | None:
        if tensor is None or isinstance(tensor, c_void_p):
            return tensor
        return c_void_p(_address(tensor))


class _ListOfFloats:
    """Argument type of the kernels: a list of float32 CPU tensors, or None for NULL."""

    @staticmethod
    def from_param(tensors: Sequence[Tensor | None] | None) -> Any:
        if tensors is None:
            return None
        return (c_void_p * len(tensors))(*[None if t is None else _address(t) for t in tensors])


class _ListOfInts:
    """Argument type of the kernels: a list of integers."""

    @staticmethod
    def from_param(values: Sequence[int]) -> Any:
        return (c_int * len(values))(*values)


class _ListOfNumbers:
    """Argument type of the kernels: a list of floats."""

    @staticmethod
    def from_param(values: Sequence[float]) -> Any:
        return (c_float * len(values))(*values)


def _address(tensor: Tensor) -> int:
    if tensor.dtype is not torch.float32 or tensor.device.type != "cpu":
        raise TypeError(
            f"the kernels read float32 tensors on the CPU, got {tensor.dtype} on {tensor.device}"
        )
    return tensor.data_ptr()


_VERSION = 2  # of the kernels' arguments, see `sk_version` in `_sk.c`
_INT = c_int
# The arguments of each kernel in `_sk.h`, without the number of threads, which comes last.
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "sk_pack": (_Floats, _ListOfInts, _Floats, _INT, _INT),
    "sk_conv": (
        *(_Floats, _INT, _ListOfInts, _ListOfFloats, _ListOfFloats, _ListOfFloats),
        *(_Floats, _Floats, *[_INT] * 7),
    ),
    "sk_sums": (_INT, _ListOfFloats, _Floats, *[_INT] * 4),
    "sk_statistics": (
        *(_INT, _Floats, _ListOfFloats, _ListOfFloats, _ListOfNumbers, _ListOfFloats),
        *(_Floats, *[_INT] * 3),
    ),
    "sk_update_running": (*[_Floats] * 4, c_float, _INT, _INT),
    "sk_select": (_INT, _ListOfFloats, *[_Floats] * 4, *[_INT] * 3),
    "sk_pool": (_INT, _ListOfFloats, *[_Floats] * 4, *[_INT] * 4),
    "sk_grad_sums": (_INT, _ListOfFloats, *[_Floats] * 7, *[_INT] * 4),
    "sk_norm_gradients": (_INT, *[_Floats] * 3, _ListOfInts, *[_Floats] * 6, *[_INT] * 3),
    "sk_grad_maps": (_INT, _ListOfFloats, *[_Floats] * 7, _ListOfFloats, *[_INT] * 3),
    "sk_backward": (
        *(_Floats, _INT, _ListOfInts, _ListOfFloats, _ListOfInts, _ListOfFloats),
        *([_Floats] * 8),
        *(_ListOfFloats, *[_INT] * 7),
    ),
    "sk_depthwise_grad": (
        *(_Floats, _ListOfInts, _Floats, _ListOfInts, _Floats),
        *([_INT] * 11),
    ),
}


def row_address(norms: Tensor, row: int) -> c_void_p:
    """Return the address of a row of norms [5, M, C], faster than indexing."""
    return c_void_p(_address(norms) + row * norms.stride(0) * norms.element_size())


def _open(folder: Path) -> tuple[dict[str, Callable[..., int]], int]:
    """Load the library from a folder.

    Returns:
        Its functions by name, and the lanes of this CPU's vectors: 16 with AVX-512, 8 with AVX2.
        Without a library for this CPU, no functions and 0.
    """
    for path in folder.glob("_sk*.so"):
        try:
            library = ctypes.CDLL(str(path))
        except OSError:  # built for another machine
            continue
        # Built from another version of `_sk.h`, which an update of the code alone leaves behind.
        if not hasattr(library, "sk_version") or library.sk_version() != _VERSION:
            continue
        if lanes := int(library.sk_lanes()):
            functions: dict[str, Callable[..., int]] = {}
            for name, arguments in _SIGNATURES.items():
                for suffix in ("avx2", "avx512"):
                    function = getattr(library, f"{name}_{suffix}")
                    function.argtypes, function.restype = (*arguments, c_int), c_int
                    functions[f"{name}_{suffix}"] = function
            return functions, lanes
    return {}, 0


_FUNCTIONS, LANES = _open(Path(__file__).parent)
_ENABLED = os.environ.get("SKSEG_KERNELS", "1") != "0"


def available() -> bool:
    """Whether the kernels were built, suit this CPU, and are switched on."""
    return LANES > 0 and _ENABLED


@contextmanager
def disabled() -> Iterator[None]:
    """Run on torch's own operations inside the context, as SKSEG_KERNELS=0 does for a process."""
    global _ENABLED
    before, _ENABLED = _ENABLED, False
    try:
        yield
    finally:
        _ENABLED = before


def call(name: str, *args: object) -> None:
    """Call a kernel with torch's number of threads.

    Raises:
        TypeError: An argument is not what the kernel reads.
        MemoryError: The kernel could not allocate.
    """
    if len(args) != len(_SIGNATURES[name]):  # ctypes lets surplus arguments pass
        raise TypeError(f"{name} has {len(_SIGNATURES[name])} arguments, got {len(args)}")
    try:
        function = _FUNCTIONS[f"{name}_avx{512 if LANES == 16 else 2}"]
        failed = function(*args, torch.get_num_threads())
    except ctypes.ArgumentError as error:
        raise TypeError(f"{name}: {error}") from error
    if failed:
        raise MemoryError(f"{name} could not allocate memory")
