"""The two views of Barlow Twins, and the layers to build others from."""

from keras_bt.augmentations.layers import (
    Normalize,
    RandomAffine,
    RandomColorJitter,
    RandomFlip,
    RandomGaussianBlur,
    RandomGrayscale,
    RandomResizedCrop,
    RandomSolarize,
)
from keras_bt.augmentations.views import View, aspect_of_views, barlow_twins_views

__all__ = [
    "Normalize",
    "RandomAffine",
    "RandomColorJitter",
    "RandomFlip",
    "RandomGaussianBlur",
    "RandomGrayscale",
    "RandomResizedCrop",
    "RandomSolarize",
    "View",
    "aspect_of_views",
    "barlow_twins_views",
]
