"""ResNet v1.5 as torchvision builds it, from core Keras layers only."""

import keras
from keras import layers

# Depth: blocks per stage, and whether they are bottlenecks (He et al., 2015, table 1).
STAGES = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}
STEMS = ("imagenet", "small")


def resnet(
    depth: int,
    stem: str = "imagenet",
    width: int = 64,
    input_shape: tuple[int | None, int | None, int] = (None, None, 3),
    name: str | None = None,
) -> keras.Model:
    """Builds a ResNet v1.5 without its classifier: images to average-pooled features.

    In v1.5 the stride of a bottleneck is in its 3×3 convolution. Padding, epsilon (1e-5), momentum
    (0.9, which PyTorch calls 0.1) and initialization are torchvision's, and the last gamma of each
    block starts at zero, so that each block starts as the identity. Layers are named as in
    torchvision, with "_" for ".".

    >>> backbone = resnet(18, stem="small", width=16, input_shape=(32, 32, 3))
    >>> backbone.output_shape, backbone.count_params()
    ((None, 128), 702576)

    The standard `resnet(50)` has 2048 features and 23,561,152 parameters.

    Args:
        depth: 18, 34, 50, 101 or 152.
        stem: `"imagenet"`, a 7×7 convolution of stride 2 and 3×3 max-pooling of stride 2; or
            `"small"`, a 3×3 convolution of stride 1 without pooling, for images of about 32 pixels.
        width: channels of the stem and the first stage; 64 in the standard networks.
        input_shape: (height, width, channels), with None for sizes that may vary.
        name: the model's name, `resnet{depth}` by default.

    Returns:
        A model from float images (b, h, w, c) to features (b, 8·width), or (b, 32·width) from
        depth 50 on. The features are float32 under every precision policy.

    Raises:
        ValueError: for any other depth, stem or width.

    Source: arXiv 1512.03385; torchvision.models.resnet.
    """
    if depth not in STAGES:
        raise ValueError(f"depth must be one of {', '.join(map(str, STAGES))}. Received: {depth}.")
    if stem not in STEMS:
        raise ValueError(f"stem must be one of {', '.join(STEMS)}. Received: stem={stem!r}.")
    if width < 1:
        raise ValueError(f"width must be at least 1. Received: width={width}.")
    blocks, bottleneck = STAGES[depth]
    block = _bottleneck if bottleneck else _basic_block

    images = x = layers.Input(input_shape, name="images")
    if stem == "imagenet":
        x = _convolution(x, width, 7, 2, "conv1")
        x = _normalization(x, "bn1")
        x = layers.ReLU(name="relu")(x)
        # Zeros serve as well as −∞: after the ReLU nothing is smaller.
        x = layers.ZeroPadding2D(1, name="maxpool_pad")(x)
        x = layers.MaxPooling2D(3, strides=2, name="maxpool")(x)
    else:
        x = _convolution(x, width, 3, 1, "conv1")
        x = _normalization(x, "bn1")
        x = layers.ReLU(name="relu")(x)
    for stage, count in enumerate(blocks):
        for index in range(count):
            stride = 2 if stage > 0 and index == 0 else 1
            x = block(x, width * 2**stage, stride, f"layer{stage + 1}_{index}")
    features = layers.GlobalAveragePooling2D(dtype="float32", name="avgpool")(x)
    return keras.Model(images, features, name=name or f"resnet{depth}")


def _basic_block(x, filters, stride, name):
    y = _convolution(x, filters, 3, stride, f"{name}_conv1")
    y = _normalization(y, f"{name}_bn1")
    y = layers.ReLU(name=f"{name}_relu1")(y)
    y = _convolution(y, filters, 3, 1, f"{name}_conv2")
    return _join(x, y, filters, stride, "bn2", name)


def _bottleneck(x, filters, stride, name):
    y = _convolution(x, filters, 1, 1, f"{name}_conv1")
    y = _normalization(y, f"{name}_bn1")
    y = layers.ReLU(name=f"{name}_relu1")(y)
    y = _convolution(y, filters, 3, stride, f"{name}_conv2")
    y = _normalization(y, f"{name}_bn2")
    y = layers.ReLU(name=f"{name}_relu2")(y)
    y = _convolution(y, 4 * filters, 1, 1, f"{name}_conv3")
    return _join(x, y, 4 * filters, stride, "bn3", name)


def _join(x, y, filters, stride, last_normalization, name):
    """Normalizes the block's last convolution, adds the shortcut, and rectifies."""
    y = _normalization(y, f"{name}_{last_normalization}", gamma="zeros")
    if stride != 1 or x.shape[-1] != filters:
        x = _convolution(x, filters, 1, stride, f"{name}_downsample_0")
        x = _normalization(x, f"{name}_downsample_1")
    y = layers.Add(name=f"{name}_add")([x, y])
    return layers.ReLU(name=f"{name}_relu")(y)


def _convolution(x, filters, size, stride, name):
    padding = "same" if stride == 1 else "valid"
    if stride > 1 and size > 1:
        # With a stride, TensorFlow's "same" pads more on the right and below; torchvision does not.
        x = layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x)
    return layers.Conv2D(
        filters,
        size,
        strides=stride,
        padding=padding,
        use_bias=False,
        kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
        name=name,
    )(x)


def _normalization(x, name, gamma="ones"):
    return layers.BatchNormalization(
        epsilon=1e-5, momentum=0.9, gamma_initializer=gamma, name=name
    )(x)
