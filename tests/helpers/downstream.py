"""What users of an export do, with Keras and TensorFlow alone. Run by test_downstream.py.

`python downstream.py FOLDER`: FOLDER holds `models/1`, a smaller `tiny/1`, `backbone.keras` and
`images.npz`. For each use FOLDER/results.json has "" or the traceback of what went wrong.
"""

import importlib
import json
import pathlib
import sys
import traceback
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

sys.modules["keras_bt"] = None  # from now on `import keras_bt` fails
warnings.simplefilter("error")
warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)

FOLDER = pathlib.Path(sys.argv[1])
SAVED, TINY = FOLDER / "models" / "1", FOLDER / "tiny" / "1"
ARRAYS = np.load(FOLDER / "images.npz")
IMAGES, LABELS, PREPROCESSED = ARRAYS["images"], ARRAYS["labels"], ARRAYS["preprocessed"]
FILES = [bytes.fromhex(text) for text in ARRAYS["files"]]


def values(variables):
    return {v.path if hasattr(v, "path") else v.name: v.numpy() for v in variables}


def unmoved(before, variables):
    return [name for name, v in values(variables).items() if np.array_equal(v, before[name])]


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def backbone_layer():
    """The layer from the file that lies in the export."""
    sys.path.insert(0, str(SAVED / "assets.extra"))
    return importlib.import_module("backbone_layer").BackboneLayer


def classifier(features, images):
    model = keras.Model(images, keras.layers.Dense(2)(features))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    return model


def fit(model, images, epochs):
    model.fit(images, LABELS, batch_size=len(images), epochs=epochs, verbose=0)
    return np.mean(model.predict(images, verbose=0).argmax(1) == LABELS)


def with_tensorflow_alone():
    loaded = tf.saved_model.load(SAVED)
    assert_close(loaded.serve(IMAGES)["features"], ARRAYS["features"])
    assert_close(loaded.serve_jpeg(tf.constant(FILES))["features"], ARRAYS["features"])


def fine_tuned_with_tensorflow_alone():
    loaded = tf.saved_model.load(SAVED)
    head = tf.Variable(tf.random.stateless_normal([16, 2], seed=(0, 0)) / 10)
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    before = values(loaded.variables)
    variables = [*loaded.trainable_variables, head]

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            logits = loaded.train(PREPROCESSED)["features"] @ head
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(LABELS, logits))
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    losses = [float(step()) for _ in range(10)]
    assert losses[-1] < 0.5 * losses[0]
    assert not unmoved(before, loaded.variables)


def frozen_tfsm_layer():
    layer = keras.layers.TFSMLayer(str(SAVED), call_endpoint="serve", trainable=False)
    images = keras.Input((None, None, 3), dtype="uint8")
    model = classifier(layer(images)["features"], images)
    before = values(layer.weights)
    assert fit(model, IMAGES, epochs=30) > 0.8
    assert len(model.trainable_weights) == 2  # the head's
    assert len(unmoved(before, layer.weights)) == len(before)


def fine_tuned_backbone_layer():
    images = keras.Input((None, None, 3), dtype="uint8")
    layer = backbone_layer()(SAVED)
    model = classifier(layer(images), images)
    before = values(layer.weights)
    model.predict(IMAGES, verbose=0)
    assert len(unmoved(before, layer.weights)) == len(before) == 30
    assert fit(model, IMAGES, epochs=10) > 0.8
    assert not unmoved(before, layer.weights)
    model.save(FOLDER / "tuned.keras")
    with pytest.raises(ValueError, match="safe_mode=False"):
        keras.models.load_model(FOLDER / "tuned.keras")
    reloaded = keras.models.load_model(FOLDER / "tuned.keras", safe_mode=False)
    model.export(FOLDER / "served", verbose=False)
    served = tf.saved_model.load(FOLDER / "served")
    logits = model.predict(IMAGES, verbose=0)
    assert_close(reloaded.predict(IMAGES, verbose=0), logits)
    assert_close(served.serve(IMAGES), logits)


def frozen_backbone_layer():
    images = keras.Input((16, 16, 3))
    layer = backbone_layer()(TINY, trainable=False)
    model = classifier(layer(images), images)
    before = values(layer.weights)
    fit(model, PREPROCESSED, epochs=2)
    assert len(unmoved(before, layer.weights)) == len(before)
    assert len(model.trainable_weights) == 2
    layer.trainable = True
    assert len(layer.trainable_weights) == 4


def mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        images = keras.Input((16, 16, 3))
        features = backbone_layer()(TINY)(images)
        fit(classifier(features, images), PREPROCESSED, epochs=1)
    finally:
        keras.config.set_dtype_policy("float32")
    assert features.dtype == "float32"


def keras_file():
    backbone = keras.models.load_model(FOLDER / "backbone.keras")
    assert_close(backbone.predict(PREPROCESSED, verbose=0), ARRAYS["features"])
    images = keras.Input((16, 16, 3))
    model = classifier(backbone(images), images)
    before = values(backbone.weights)
    fit(model, PREPROCESSED, epochs=3)
    assert not unmoved(before, backbone.weights)
    model.save(FOLDER / "whole.keras")
    reloaded = keras.models.load_model(FOLDER / "whole.keras")
    logits = model.predict(PREPROCESSED, verbose=0)
    assert_close(reloaded.predict(PREPROCESSED, verbose=0), logits)


def without_this_package():
    with pytest.raises(ImportError):
        importlib.import_module("keras_bt")


def main():
    results = {}
    for use in (
        with_tensorflow_alone,
        fine_tuned_with_tensorflow_alone,
        frozen_tfsm_layer,
        fine_tuned_backbone_layer,
        frozen_backbone_layer,
        mixed_precision,
        keras_file,
        without_this_package,
    ):
        keras.utils.set_random_seed(0)
        try:
            use()
            results[use.__name__] = ""
        except Exception:
            results[use.__name__] = traceback.format_exc()
    (FOLDER / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
