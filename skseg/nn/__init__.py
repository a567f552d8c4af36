"""The selective-kernel operator and its fast paths."""

from skseg.nn.attention import FuseNorm, fix_attention, record_attention
from skseg.nn.inspect import Unit, attention_units
from skseg.nn.sk import (
    ARTICLE_BRANCHES,
    PAPER_BRANCHES,
    Branch,
    Select,
    SKConv2d,
)

__all__ = [
    "ARTICLE_BRANCHES",
    "PAPER_BRANCHES",
    "Branch",
    "FuseNorm",
    "SKConv2d",
    "Select",
    "Unit",
    "attention_units",
    "fix_attention",
    "record_attention",
]
