"""Drawn street scenes, annotated like Cityscapes: for first runs without a download, for tests."""

from skseg.streets.dataset import draw_dataset, redraw
from skseg.streets.placement import Growth
from skseg.streets.scene import Scene, draw_scene

__all__ = ["Growth", "Scene", "draw_dataset", "draw_scene", "redraw"]
