"""Street scenes drawn on the spot and annotated like Cityscapes: for first runs and for tests."""

from skseg.data.streets.scene import Scene, draw_scene
from skseg.data.streets.tree import STREETS, draw_dataset

__all__ = ["STREETS", "Scene", "draw_dataset", "draw_scene"]
