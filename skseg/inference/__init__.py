"""From pictures of any size to logits, probabilities and class indices of that size.

One path for validation, evaluation, prediction and studies. The network sees a picture whole or
window by window, at one scale or several, mirrored or not: logits are averaged over windows,
probabilities over scales and mirror images. A picture is worked through from top to bottom, so
that logits take memory by its width and the window's height, not by its area.
"""

from skseg.inference.image import Prediction, predict, predict_bands
from skseg.inference.logits import Network, normalize, padded_side, predict_logits
from skseg.inference.settings import InferenceSettings, best_device
from skseg.inference.views import resize

__all__ = [
    "InferenceSettings",
    "Network",
    "Prediction",
    "best_device",
    "normalize",
    "padded_side",
    "predict",
    "predict_bands",
    "predict_logits",
    "resize",
]
