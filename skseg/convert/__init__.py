"""SK units in other people's encoders, and norms folded into convolutions for inference."""

from skseg.convert.convert import Conversion, convert_to_sk
from skseg.convert.fold import Folding, optimize_for_inference

__all__ = ["Conversion", "Folding", "convert_to_sk", "optimize_for_inference"]
