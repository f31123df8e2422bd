"""keras-cv's base class of layers, imported without PyTorch.

keras-cv imports PyTorch wherever that is installed, which takes seconds, and uses it on Keras'
torch backend alone.
"""

import sys

_absent = "torch" not in sys.modules
if _absent:
    sys.modules["torch"] = None  # type: ignore[assignment]  # an import of it fails
try:
    from keras_cv.layers import VectorizedBaseImageAugmentationLayer
finally:
    if _absent:
        del sys.modules["torch"]

__all__ = ["VectorizedBaseImageAugmentationLayer"]
