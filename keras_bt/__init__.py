"""Barlow Twins self-supervised learning for Keras 3 and TensorFlow."""

from keras_bt.model.barlow_twins import BarlowTwins, projector
from keras_bt.model.siamese import Siamese
from keras_bt.objectives.barlow_twins import barlow_twins_loss, loss_floor
from keras_bt.optimizer import LARS
from keras_bt.resnet import resnet
from keras_bt.schedule import warmup_cosine

__version__ = "0.1.0"

__all__ = [
    "LARS",
    "BarlowTwins",
    "Siamese",
    "barlow_twins_loss",
    "loss_floor",
    "projector",
    "resnet",
    "warmup_cosine",
]
