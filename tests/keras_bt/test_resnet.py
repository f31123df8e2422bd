import keras
import numpy as np
import pytest
from oracles import load_formula_weights, weights_formula

from keras_bt import resnet
from keras_bt.resnet import STAGES


def relative_error(value, reference):
    return np.linalg.norm(value - reference) / np.linalg.norm(reference)


@pytest.mark.parametrize(
    ("depth", "size"), [(18, 64), (50, 64), pytest.param(50, 97, marks=pytest.mark.slow)]
)
def test_features_equal_torchvision(fixture_arrays, depth, size):
    reference = fixture_arrays("resnet", f"resnet{depth}/{size}")
    backbone = resnet(depth)
    load_formula_weights(backbone)
    images = weights_formula(f"images{size}", (2, size, size, 3)).astype("float32")
    inference = np.asarray(backbone(images, training=False))
    assert relative_error(inference, reference["features_eval"]) < 1e-5
    training = np.asarray(backbone(images, training=True))
    assert relative_error(training, reference["features_train"]) < 1e-3


# Counts of torchvision's networks without their classifiers.
@pytest.mark.parametrize(
    ("depth", "parameters", "features"),
    [
        (18, 11_176_512, 512),
        (34, 21_284_672, 512),
        (50, 23_508_032, 2048),
        pytest.param(101, 42_500_160, 2048, marks=pytest.mark.slow),
        pytest.param(152, 58_143_808, 2048, marks=pytest.mark.slow),
    ],
)
def test_sizes(depth, parameters, features):
    backbone = resnet(depth)
    trainable = sum(int(np.prod(v.shape)) for v in backbone.trainable_variables)
    assert trainable == parameters
    assert backbone.output_shape == (None, features)


def test_small_stem_and_width():
    backbone = resnet(18, stem="small", width=16, input_shape=(32, 32, 3))
    assert backbone.output_shape == (None, 128)
    assert backbone.get_layer("conv1").kernel.shape == (3, 3, 3, 16)
    # Stride 8 in all: three stages of stride 2 and a stem of stride 1.
    assert backbone.get_layer("layer4_1_relu").output.shape == (None, 4, 4, 128)


def test_starts_as_published():
    backbone = resnet(50, width=16)
    last = [layer for layer in backbone.layers if layer.name.endswith("_bn3")]
    assert len(last) == sum(STAGES[50][0])
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            assert float(keras.ops.max(layer.gamma)) == float(layer not in last)
            assert layer.epsilon == 1e-5
            assert layer.momentum == 0.9
    kernel = np.asarray(backbone.get_layer("layer3_0_conv1").kernel)  # 1×1, 128 to 64 channels
    assert kernel.std() == pytest.approx(np.sqrt(2 / 64), rel=0.03)
    assert abs(kernel).max() > 2.5 * kernel.std()  # not truncated


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_features_are_float32_under_every_policy(policy):
    keras.config.set_dtype_policy(policy)
    try:
        backbone = resnet(18, stem="small", width=8)
    finally:
        keras.config.set_dtype_policy("float32")
    assert backbone.get_layer("layer1_0_conv1").compute_dtype == policy.removeprefix("mixed_")
    assert keras.backend.standardize_dtype(backbone(np.ones((1, 16, 16, 3))).dtype) == "float32"


def test_core_layers_only_so_that_plain_keras_loads_it(tmp_path):
    backbone = resnet(18, stem="small", width=8)
    for layer in backbone.layers:
        assert type(layer).__module__.startswith("keras.src.layers")
    backbone.save(tmp_path / "backbone.keras")
    loaded = keras.models.load_model(tmp_path / "backbone.keras")
    images = np.random.default_rng(0).normal(size=(2, 20, 24, 3)).astype("float32")
    np.testing.assert_array_equal(loaded(images), backbone(images))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 42}, "depth must be one of 18, 34, 50, 101, 152. Received: 42"),
        ({"depth": 18, "stem": "tiny"}, "stem must be one of imagenet, small. Received: .*tiny"),
        ({"depth": 18, "width": 0}, "width must be at least 1. Received: width=0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        resnet(**arguments)
