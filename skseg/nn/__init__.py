"""The selective-kernel convolution, its attention, and its fast paths."""

from skseg.nn.attention import FuseNorm, fix_attention, record_attention
from skseg.nn.inspect import Unit, attention_units
from skseg.nn.sk import (
    PAPER_BRANCHES,
    TOY_BRANCHES,
    Branch,
    Select,
    SKConv2d,
)

__all__ = [
    "PAPER_BRANCHES",
    "TOY_BRANCHES",
    "Branch",
    "FuseNorm",
    "SKConv2d",
    "Select",
    "Unit",
    "attention_units",
    "fix_attention",
    "record_attention",
]
