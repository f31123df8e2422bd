import dataclasses
import json
import pathlib
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from exported import IMAGE_SIZE, difference, random_images, tiny_backbone, trained_backbone

from keras_bt.portable import export_portable
from keras_bt.portable.formats import FORMATS
from keras_bt.preprocessing import center_crop, normalize

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


@pytest.fixture(params=FORMATS)
def target(request, tmp_path):
    """Where to write a file of each format whose packages are installed."""
    for module in FORMATS[request.param].modules:
        pytest.importorskip(module, reason=f"{FORMATS[request.param].name} is not installed")
    return tmp_path / f"backbone{request.param}"


def opened(path):
    """The file as a function, and the name, type and shape of its input, by its own runtime."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (described,) = session.get_inputs()
        return (
            lambda images: session.run(["features"], {"images": images})[0],
            (described.name, described.type, described.shape),
        )
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    run = interpreter.get_signature_runner()
    ((name, described),) = run.get_input_details().items()
    shape = described["shape_signature"].tolist()
    return lambda images: run(images=images)["features"], (name, described["dtype"], shape)


@pytest.mark.slow
def test_serve_takes_images_of_any_size_and_sees_them_as_evaluation_does(target):
    backbone = trained_backbone()
    # On the way from 19 to 16 pixels the corner is at 1.5, which is rounded to even.
    assert export_portable(backbone, target, IMAGE_SIZE, 19, MEAN, STD) == target
    run, described = opened(target)
    assert (
        described
        == {
            ".onnx": ("images", "tensor(uint8)", ["batch", "height", "width", 3]),
            ".tflite": ("images", np.uint8, [-1, -1, -1, 3]),
        }[target.suffix]
    )
    for shape in ((3, 40, 53), (1, 16, 16), (1, 19, 20), (2, 9, 7), (1, 1, 1), (1, 3, 200)):
        images = random_images(*shape)
        preprocessed = normalize(center_crop(images, IMAGE_SIZE, 19), MEAN, STD)
        assert difference(run(images), backbone(preprocessed, training=False)) < 1e-5
    assert {path.name for path in target.parent.iterdir()} == {target.name, f"{target.name}.json"}


@pytest.mark.slow
def test_infer_takes_preprocessed_images(target):
    backbone = trained_backbone()
    backbone.layers[1].trainable = False
    weights = backbone.get_weights()
    export_portable(backbone, target, IMAGE_SIZE, endpoint="infer")
    run, described = opened(target)
    assert (
        described
        == {
            ".onnx": ("images", "tensor(float)", ["batch", 16, 16, 3]),
            ".tflite": ("images", np.float32, [-1, 16, 16, 3]),
        }[target.suffix]
    )
    for batch in (1, 5):
        images = np.random.default_rng(0).normal(size=(batch, 16, 16, 3)).astype("float32")
        assert difference(run(images), backbone(images, training=False)) < 1e-5
    for found, before in zip(backbone.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(found, before)


def test_the_card_says_how_to_preprocess(target):
    export_portable(
        tiny_backbone(), target, 8, 9, MEAN, STD, endpoint="infer", card={"data": "digits"}
    )
    card = json.loads((target.parent / f"{target.name}.json").read_text())
    assert card["input"] == "images: float32 RGB, (batch, 8, 8, 3), preprocessed"
    words = card["preprocessing"].pop("in words")
    assert words.startswith("The shorter side is resized to 9 pixels")
    how = {"by": "the client", "image_size": 8, "resize": 9, "mean": [*MEAN], "std": [*STD]}
    assert card["preprocessing"] == how
    assert (card["data"], card["format"]) == ("digits", FORMATS[target.suffix].name)


@keras.saving.register_keras_serializable("test_portable")
class Inverse(keras.layers.Layer):
    """An operation that neither format has."""

    def call(self, images):
        square = keras.ops.mean(images, axis=3)[:, :3, :3]
        return keras.ops.reshape(keras.ops.inv(square), (-1, 9))


@pytest.mark.slow
def test_a_file_is_replaced_whole_or_not_at_all(target, monkeypatch, capfd, caplog):
    form = FORMATS[target.suffix]
    for path in (target, target.parent / f"{target.name}.json"):
        path.write_text("as before")

    def refused(error, *arguments, **options):
        with pytest.raises(ValueError, match=error):
            export_portable(*arguments, **options)
        assert {path.read_text() for path in target.parent.iterdir()} == {"as before"}
        assert len(list(target.parent.iterdir())) == 2

    images = keras.Input((8, 8, 3))
    odd = keras.Model(images, Inverse()(images), name="odd")
    message = (
        f"^{form.name} must support every operation of the backbone. "
        "Received: odd, which has MatrixInverse.$"
    )
    refused(message, odd, target, 8)

    # The converters talk, in C++ too.
    assert (capfd.readouterr().err, caplog.text) == ("", "")

    for factor, distance in ((1 + 3e-4, "0.*"), (np.nan, "nan")):

        def others(function, spec, factor=factor):
            """A file that works, of a backbone whose features are others."""

            def scaled(images):
                return {"features": function(images)["features"] * factor}

            return form.convert(tf.function(scaled, autograph=False), spec)

        wrong = dataclasses.replace(form, convert=others)
        monkeypatch.setitem(FORMATS, target.suffix, wrong)
        refused(
            rf"^The features in {form.name} must equal the backbone's to 0.0001 \(relative L2\). "
            rf"Received: a distance of {distance} between .*; nothing is written.$",
            tiny_backbone(),
            target,
            8,
        )
    broken = dataclasses.replace(form, convert=lambda *_: b"no model")
    monkeypatch.setitem(FORMATS, target.suffix, broken)
    refused("Received: tiny, which fails ", tiny_backbone(), target, 8)
    monkeypatch.setitem(FORMATS, target.suffix, form)
    refused("card must consist of JSON values", tiny_backbone(), target, 8, card={"data": {1, 2}})
    refused("Received: image_size=8, resize=7", tiny_backbone(), target, 8, 7)
    refused("backbone must take images of 2×2×3", tiny_backbone(), target, 2)
    refused('endpoint must be "serve" or "infer"', tiny_backbone(), target, 8, endpoint="train")


def test_a_full_disk_leaves_what_was_there(target, monkeypatch):
    target.write_text("as before")

    def half(path, content):
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError("No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", half)
    with pytest.raises(OSError, match="No space left"):
        export_portable(tiny_backbone(), target, 8)
    assert list(target.parent.iterdir()) == [target]
    assert target.read_text() == "as before"


@pytest.mark.slow
def test_nothing_is_left_where_nothing_can_be_written(target):
    target.mkdir()
    with pytest.raises(OSError, match=str(target)):
        export_portable(tiny_backbone(), target, 8)
    assert list(target.parent.iterdir()) == [target]
    assert not any(target.iterdir())


def test_other_endings_are_refused(tmp_path):
    for name in ("backbone.pb", "backbone", "onnx", "backbone.onnx.zip"):
        with pytest.raises(ValueError, match=r"must end in \.onnx or \.tflite\. Received: .*"):
            export_portable(tiny_backbone(), tmp_path / name, 8)


@pytest.mark.parametrize("ending", FORMATS)
def test_missing_packages_are_named(ending, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, FORMATS[ending].modules[-1], None)
    extra = {".onnx": "onnx", ".tflite": "litert"}[ending]
    with pytest.raises(ValueError, match=rf'more packages: pip install "keras_bt\[{extra}\]"'):
        export_portable(tiny_backbone(), tmp_path / f"backbone{ending}", 8)
