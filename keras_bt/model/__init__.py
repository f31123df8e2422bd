"""The Barlow Twins model: a backbone and a projector, trained on pairs of views."""

from keras_bt.model.barlow_twins import BarlowTwins, projector

__all__ = ["BarlowTwins", "projector"]
