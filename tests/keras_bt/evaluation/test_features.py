import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bt.evaluation.features import extract_features, inference_function


def small_backbone():
    backbone = keras.Sequential(
        [
            keras.layers.Input((6, 6, 3)),
            keras.layers.Conv2D(4, 3),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(5),
        ]
    )
    # Moving statistics unlike those of any batch, so that training mode would show.
    normalization = backbone.layers[1]
    normalization.moving_mean.assign([1.0, -2.0, 0.5, 3.0])
    normalization.moving_variance.assign([4.0, 0.25, 1.0, 9.0])
    return backbone


def images_and_labels(n):
    random = np.random.default_rng(0)
    return random.standard_normal((n, 6, 6, 3)).astype(np.float32), random.integers(0, 9, n)


class CountsTraces(keras.layers.Layer):
    traces = 0

    def call(self, images):
        CountsTraces.traces += 1  # Python runs only while tracing
        assert images.shape == (None, 6, 6, 3)  # traced for any number of images
        return tf.reduce_mean(images, axis=(1, 2))


def test_features_are_those_of_single_images_in_inference_mode():
    backbone = small_backbone()
    images, labels = images_and_labels(23)
    batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(8)  # 8, 8, 7
    features, found = extract_features(backbone, batches)
    expected = np.concatenate([backbone(image[None], training=False) for image in images])
    assert features.dtype == np.float32
    assert features.shape == (23, 5)
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, labels)


def test_labels_are_none_without_labels_and_may_be_several():
    images, labels = images_and_labels(5)
    for unlabelled in (images, (images,)):
        data = tf.data.Dataset.from_tensor_slices(unlabelled).batch(2)
        features, found = extract_features(small_backbone(), data)
        assert found is None
        assert features.shape == (5, 5)
    several = np.stack([labels, labels + 1], axis=1).astype(np.uint8)
    data = tf.data.Dataset.from_tensor_slices((images, several)).batch(2)
    _, found = extract_features(small_backbone(), data)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, several)


def test_one_trace_for_full_and_short_batches_and_for_several_extractions():
    layer = CountsTraces()
    images, labels = images_and_labels(11)
    data = tf.data.Dataset.from_tensor_slices((images, labels))
    CountsTraces.traces = 0
    extract_features(layer, data.batch(4))
    assert CountsTraces.traces == 1

    forward = inference_function(layer)
    CountsTraces.traces = 0
    for batches in (data.batch(4), data.batch(3), data.batch(5, drop_remainder=True)):
        extract_features(forward, batches)
    assert CountsTraces.traces == 1


def test_a_kept_function_reads_the_current_weights():
    backbone = small_backbone()
    images, _ = images_and_labels(4)
    data = tf.data.Dataset.from_tensor_slices(images).batch(4)
    forward = inference_function(backbone)
    before, _ = extract_features(forward, data)
    backbone.layers[-1].bias.assign_add([1.0] * 5)
    after, _ = extract_features(forward, data)
    np.testing.assert_allclose(after, before + 1, rtol=1e-5, atol=1e-5)


def test_half_precision_backbone_gives_float32():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        backbone = small_backbone()
    finally:
        keras.config.set_dtype_policy("float32")
    images, _ = images_and_labels(3)
    features, _ = extract_features(backbone, tf.data.Dataset.from_tensor_slices(images).batch(2))
    assert features.dtype == np.float32


def test_progress_bar(capsys):
    images, _ = images_and_labels(5)
    data = tf.data.Dataset.from_tensor_slices(images)
    extract_features(small_backbone(), data.batch(2), progress=True)
    assert "5image" in capsys.readouterr().out
    extract_features(small_backbone(), data.batch(2))
    assert capsys.readouterr().out == ""


def test_mistakes_are_named():
    images, labels = images_and_labels(4)
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(2)
    for batches, message in (
        ([(images, labels)], "finite tf.data.Dataset .* Received: list"),
        (data.repeat(), "Received: an infinite data set"),
        (data.take(0), "at least one image"),
        (data.filter(lambda *_: False), "at least one image"),
        (data.map(lambda x, y: (x, y, y)), "Received: elements"),
        (data.map(lambda x, y: {"image": x}), "Received: elements"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            extract_features(small_backbone(), batches)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="one vector per image"):
        extract_features(keras.Sequential([keras.layers.ReLU()]), data)
