"""A backbone as one file without TensorFlow: ONNX and LiteRT."""

from keras_bt.portable.export import card_path, export_portable

__all__ = ["card_path", "export_portable"]
