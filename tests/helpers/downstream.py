"""What users of an export do, with Keras and TensorFlow alone. Run by test_saved_model_downstream.

`python downstream.py FOLDER`: FOLDER holds `models/1`, a smaller `tiny/1`, `backbone.keras` and
`images.npz`. What each use came to is written to FOLDER/results.json, or its traceback.
"""

import importlib
import json
import pathlib
import sys
import traceback
import warnings

import keras
import numpy as np
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


def largest(difference):
    return float(np.abs(difference).max())


def backbone_layer():
    """The layer from the file that lies in the export."""
    sys.path.insert(0, str(SAVED / "assets.extra"))
    return importlib.import_module("backbone_layer").BackboneLayer


def accuracy(model):
    return float(np.mean(model.predict(IMAGES, verbose=0).argmax(1) == LABELS))


def classifier(features, images):
    model = keras.Model(images, keras.layers.Dense(2)(features))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    return model


def with_tensorflow_alone():
    loaded = tf.saved_model.load(SAVED)
    return {
        "serve": loaded.serve(IMAGES)["features"].numpy().tolist(),
        "serve_jpeg": loaded.signatures["serve_jpeg"](encoded=tf.constant(FILES))["features"]
        .numpy()
        .tolist(),
    }


def fine_tuned_with_tensorflow_alone():
    loaded = tf.saved_model.load(SAVED)
    head = tf.Variable(tf.random.stateless_normal([32, 2], seed=(0, 0)) / 10)
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    before, losses = values(loaded.variables), []
    variables = [*loaded.trainable_variables, head]

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            logits = loaded.train(PREPROCESSED)["features"] @ head
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(LABELS, logits))
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    for _ in range(10):
        losses.append(float(step()))
    return {"unmoved": unmoved(before, loaded.variables), "losses": losses}


def frozen_tfsm_layer():
    layer = keras.layers.TFSMLayer(str(SAVED), call_endpoint="serve", trainable=False)
    images = keras.Input((None, None, 3), dtype="uint8")
    model = classifier(layer(images)["features"], images)
    before = values(layer.weights)
    model.fit(IMAGES, LABELS, batch_size=len(IMAGES), epochs=30, verbose=0)
    model.save(FOLDER / "frozen.keras")
    try:
        keras.models.load_model(FOLDER / "frozen.keras")
        refused = False
    except ValueError as error:
        refused = "safe_mode=False" in str(error)
    reloaded = keras.models.load_model(FOLDER / "frozen.keras", safe_mode=False)
    return {
        "trainable": len(model.trainable_weights),
        "moved": len(before) - len(unmoved(before, layer.weights)),
        "accuracy": accuracy(model),
        "refused": refused,
        "reloaded": largest(model.predict(IMAGES, verbose=0) - reloaded.predict(IMAGES, verbose=0)),
    }


def fine_tuned_backbone_layer():
    images = keras.Input((None, None, 3), dtype="uint8")
    layer = backbone_layer()(SAVED)
    model = classifier(layer(images), images)
    before = values(layer.weights)
    model.predict(IMAGES, verbose=0)
    unmoved_by_inference = len(unmoved(before, layer.weights))
    model.fit(IMAGES, LABELS, batch_size=len(IMAGES), epochs=10, verbose=0)
    still = unmoved(before, layer.weights)
    model.save(FOLDER / "tuned.keras")
    try:
        keras.models.load_model(FOLDER / "tuned.keras")
        refused = False
    except ValueError as error:
        refused = "safe_mode=False" in str(error)
    reloaded = keras.models.load_model(FOLDER / "tuned.keras", safe_mode=False)
    model.export(FOLDER / "served", verbose=False)
    served = tf.saved_model.load(FOLDER / "served")
    logits = model.predict(IMAGES, verbose=0)
    return {
        "weights": len(before),
        "unmoved by inference": unmoved_by_inference,
        "unmoved": still,
        "accuracy": accuracy(model),
        "refused": refused,
        "reloaded": largest(logits - reloaded.predict(IMAGES, verbose=0)),
        "served": largest(logits - served.serve(IMAGES).numpy()),
    }


def frozen_backbone_layer():
    images = keras.Input((16, 16, 3))
    layer = backbone_layer()(TINY, trainable=False)
    model = classifier(layer(images), images)
    before = values(layer.weights)
    model.fit(PREPROCESSED, LABELS, batch_size=len(IMAGES), epochs=2, verbose=0)
    moved = len(before) - len(unmoved(before, layer.weights))
    frozen = len(model.trainable_weights)
    layer.trainable = True
    return {
        "moved": moved,
        "trainable": frozen,
        "trainable of it when thawed": len(layer.trainable_weights),
    }


def mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        images = keras.Input((16, 16, 3))
        features = backbone_layer()(TINY)(images)
        model = classifier(features, images)
        model.fit(PREPROCESSED, LABELS, batch_size=len(IMAGES), verbose=0)
    finally:
        keras.config.set_dtype_policy("float32")
    return {"dtype": features.dtype}


def keras_file():
    backbone = keras.models.load_model(FOLDER / "backbone.keras")
    features = backbone.predict(PREPROCESSED, verbose=0)
    images = keras.Input((16, 16, 3))
    model = classifier(backbone(images), images)
    before = values(backbone.weights)
    model.fit(PREPROCESSED, LABELS, batch_size=len(IMAGES), epochs=3, verbose=0)
    still = unmoved(before, backbone.weights)
    model.save(FOLDER / "whole.keras")
    reloaded = keras.models.load_model(FOLDER / "whole.keras")
    difference = model.predict(PREPROCESSED, verbose=0) - reloaded.predict(PREPROCESSED, verbose=0)
    return {"features": features.tolist(), "unmoved": still, "reloaded": largest(difference)}


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
    ):
        keras.utils.set_random_seed(0)
        try:
            results[use.__name__] = use()
        except Exception:
            results[use.__name__] = traceback.format_exc()
    try:
        importlib.import_module("keras_bt")
        results["keras_bt"] = "could be imported"
    except ImportError:
        results["keras_bt"] = "cannot be imported"
    (FOLDER / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
