"""Models of two images: Barlow Twins, trained on two views of each, and the Siamese network."""

from keras_bt.model.barlow_twins import BarlowTwins, projector
from keras_bt.model.siamese import Siamese

__all__ = ["BarlowTwins", "Siamese", "projector"]
