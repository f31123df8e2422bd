"""PyTorch weights, in and out."""

from keras_bt.torch_weights.convert import (
    architecture,
    backbone_of,
    load_backbone,
    load_model,
    projector_of,
    state_dict,
)
from keras_bt.torch_weights.files import read_state_dict, write_state_dict

__all__ = [
    "architecture",
    "backbone_of",
    "load_backbone",
    "load_model",
    "projector_of",
    "read_state_dict",
    "state_dict",
    "write_state_dict",
]
