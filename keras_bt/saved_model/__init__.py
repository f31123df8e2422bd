"""A backbone as a SavedModel: to serve, and to fine-tune with TensorFlow alone."""

from keras_bt.saved_model.backbone_layer import BackboneLayer
from keras_bt.saved_model.export import export_saved_model, plain_copy, run_card

__all__ = ["BackboneLayer", "export_saved_model", "plain_copy", "run_card"]
