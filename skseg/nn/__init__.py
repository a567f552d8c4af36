"""The selective-kernel operator."""

from skseg.nn.sk import ARTICLE_BRANCHES, PAPER_BRANCHES, Branch, SKConv2d, record_attention

__all__ = ["ARTICLE_BRANCHES", "PAPER_BRANCHES", "Branch", "SKConv2d", "record_attention"]
