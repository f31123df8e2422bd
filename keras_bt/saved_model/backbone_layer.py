"""An exported backbone as a Keras layer, to fine-tune. Copy this file: it needs Keras 3 alone.

It lies in every export as `assets.extra/backbone_layer.py`.
"""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("barlow_twins")
class BackboneLayer(keras.layers.Layer):
    """The backbone of a SavedModel: images to features.

    It differs from `keras.layers.TFSMLayer` in that any optimizer can train it. TFSMLayer keeps the
    ":0" of TensorFlow's variable names, which is not allowed in the names of an optimizer's own
    variables, so that Adam, or SGD with momentum, ends in "is not a valid scope name".

    With training=True normalization uses the statistics of the batch and updates the moving ones;
    with training=False, or where `trainable` is False, it uses the moving ones. The computation is
    in float32 under every dtype policy.

    >>> images = keras.Input((None, None, 3), dtype="uint8")
    >>> features = BackboneLayer("saved_model/1")(images)
    >>> model = keras.Model(images, keras.layers.Dense(10)(features))

    A `.keras` file of that model refers to the SavedModel's folder, which must stay where it is.
    Keras then wants `load_model(…, safe_mode=False)`, as for every SavedModel: it is a program.
    `model.export` gives a SavedModel that needs no other.

    Args:
        filepath: Folder of the SavedModel, that of one version.
        **kwargs: Of `keras.layers.Layer`.
    """

    def __init__(self, filepath, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.filepath = str(filepath)
        self.saved = tf.saved_model.load(self.filepath)
        trainable = {id(v) for v in self.saved.trainable_variables}
        # Not copies: Keras sees the very variables that the SavedModel's functions use.
        self.shared = [
            keras.Variable(
                v, trainable=id(v) in trainable, name=v.name.split(":")[0].replace("/", "_")
            )
            for v in self.saved.variables
        ]
        for variable in self.shared:
            variable.trainable &= self.trainable  # Keras asks the variables, which came later

    def call(self, images, training=False):
        """Images to features.

        Args:
            images: uint8 RGB (b, h, w, 3) of any size; or float32, preprocessed.
            training: Whether normalization uses the statistics of the batch.

        Returns:
            float32 (b, d).
        """
        if images.dtype == tf.uint8:
            images = self.saved.preprocess(images)["images"]
        endpoint = self.saved.train if training and self.trainable else self.saved.infer
        return endpoint(images)["features"]

    def get_config(self):
        """The layer's arguments."""
        return {**super().get_config(), "filepath": self.filepath}

    @classmethod
    def from_config(cls, config, *args, **kwargs):
        """A layer from its arguments; refused unless safe_mode=False, as by TFSMLayer."""
        return keras.layers.TFSMLayer.from_config.__func__(cls, config, *args, **kwargs)
