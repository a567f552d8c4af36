"""The selective-kernel operator and its fast paths."""

from skseg.nn.optimize import optimize_for_inference
from skseg.nn.sk import ARTICLE_BRANCHES, PAPER_BRANCHES, Branch, SKConv2d, record_attention

__all__ = [
    "ARTICLE_BRANCHES",
    "PAPER_BRANCHES",
    "Branch",
    "SKConv2d",
    "optimize_for_inference",
    "record_attention",
]
