"""An exported backbone as a Keras layer, to fine-tune. Copy it: it needs only Keras and TensorFlow.

Every export contains this file as `assets.extra/backbone_layer.py`.
"""

import os
from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("barlow_twins")
class BackboneLayer(keras.layers.Layer):
    """The backbone of a SavedModel as a layer: images to features.

    Unlike `keras.layers.TFSMLayer`, it can be trained by any optimizer. TFSMLayer keeps the ":0" of
    TensorFlow's variable names, which is not allowed in the names of an optimizer's own variables,
    so Adam, or SGD with momentum, fails with "is not a valid scope name".

    With training=True, normalization uses the batch statistics and updates the moving ones; with
    training=False, or where `trainable` is False, it uses the moving ones. Everything is computed
    in float32 under every dtype policy.

    >>> layers = [keras.layers.Conv2D(8, 3), keras.layers.GlobalAveragePooling2D()]
    >>> tiny = keras.Sequential([keras.Input((None, None, 3)), *layers])
    >>> path = keras_bt.saved_model.export_saved_model(tiny, "saved_model", image_size=16)
    >>> images = keras.Input((None, None, 3), dtype="uint8")
    >>> features = BackboneLayer("saved_model/1")(images)
    >>> model = keras.Model(images, keras.layers.Dense(10)(features))
    >>> len(model.trainable_weights)  # kernel and bias of the convolution and of Dense
    4

    A `.keras` file of that model refers to the SavedModel's folder, which must stay where it is.
    Keras then asks for `load_model(…, safe_mode=False)`, because a SavedModel is a program.
    `model.export` writes a SavedModel that depends on no other.

    Args:
        filepath: Folder of one version of the SavedModel.
        **kwargs: Passed to `keras.layers.Layer`.
    """

    def __init__(self, filepath: str | os.PathLike[str], **kwargs: Any):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.filepath = str(filepath)
        self.saved = tf.saved_model.load(self.filepath)
        trainable = {id(v) for v in self.saved.trainable_variables}
        # Not copies: these are the very variables that the SavedModel's functions use.
        self.shared = [
            keras.Variable(
                v, trainable=id(v) in trainable, name=v.name.split(":")[0].replace("/", "_")
            )
            for v in self.saved.variables
        ]
        for variable in self.shared:
            variable.trainable &= self.trainable  # Layer.__init__ set it before they existed

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Computes the features of images.

        Args:
            images: uint8 (b, h, w, c) of any height and width; or float32, preprocessed.
            training: Whether normalization uses the batch statistics.

        Returns:
            float32 (b, d).
        """
        if images.dtype == tf.uint8:
            images = self.saved.preprocess(images)["images"]
        endpoint = self.saved.train if training and self.trainable else self.saved.infer
        return endpoint(images)["features"]

    def get_config(self) -> dict[str, Any]:
        """Returns the layer's arguments."""
        return {**super().get_config(), "filepath": self.filepath}

    @classmethod
    def from_config(cls, config: dict[str, Any], *args: Any, **kwargs: Any) -> "BackboneLayer":
        """Makes a layer from its arguments; like TFSMLayer, only with safe_mode=False."""
        return keras.layers.TFSMLayer.from_config.__func__(cls, config, *args, **kwargs)
