"""Street scenes drawn on the spot and annotated like Cityscapes: for first runs and for tests."""

from skseg.data.streets.objects import Growth
from skseg.data.streets.scene import Scene, draw_scene
from skseg.data.streets.tree import STREETS, draw_dataset, redraw

__all__ = ["STREETS", "Growth", "Scene", "draw_dataset", "draw_scene", "redraw"]
