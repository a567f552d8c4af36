"""From images of any size to logits, probabilities and class indices of that size.

Validation, evaluation, prediction and studies share this path. The network sees an image whole or
window by window, at one scale or several, mirrored or not. Logits are averaged over windows,
probabilities over scales and mirror images. An image is processed from top to bottom, so the
memory for logits grows with its width and the height of a window, not with its area.
"""

from skseg.inference.image import Prediction, predict, predict_bands
from skseg.inference.logits import Network, padded_side, predict_logits
from skseg.inference.settings import InferenceSettings, best_device
from skseg.inference.views import resize

__all__ = [
    "InferenceSettings",
    "Network",
    "Prediction",
    "best_device",
    "padded_side",
    "predict",
    "predict_bands",
    "predict_logits",
    "resize",
]
