import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from exported import IMAGE_SIZE, difference, encoded, random_images, tiny_backbone, trained_backbone
from PIL import Image

from keras_bt import data, saved_model
from keras_bt.evaluation.features import extract_features
from keras_bt.model.backend import prepare_batch_normalization
from keras_bt.preprocessing import center_crop, normalize
from keras_bt.strategy import choose_strategy
from keras_bt.workdir import save_model

EXACT = 1e-5  # relative L2
PHOTOS = random_images(6, 40, 52)


@pytest.fixture(scope="module")
def backbone():
    return trained_backbone()


@pytest.fixture(scope="module")
def path(backbone, tmp_path_factory):
    directory = tmp_path_factory.mktemp("export") / "models"
    card = {"data": "noise", "metrics": {"loss": 1.5}, "settings": {"epochs": 3}}
    return saved_model.export_saved_model(backbone, directory, IMAGE_SIZE, card=card)


@pytest.fixture(scope="module")
def loaded(path):
    return tf.saved_model.load(path)


@pytest.fixture(scope="module")
def evaluated(backbone):
    """Features of PHOTOS as evaluation has them."""
    source = data.ArraySource(PHOTOS)
    return extract_features(backbone, data.evaluation_batches(source, IMAGE_SIZE, 4))[0]


def assert_exact(found, expected):
    """Compares the features of each way to compute them."""
    differences = {name: difference(features, expected) for name, features in found.items()}
    assert all(found < EXACT for found in differences.values()), differences


@pytest.fixture
def fresh(path):
    """For tests that change the weights."""
    return tf.saved_model.load(path)


@pytest.mark.slow
def test_one_image_has_the_same_features_in_every_form(path, loaded, backbone, evaluated, tmp_path):
    files = [encoded(photo, "PNG") for photo in PHOTOS]
    images = normalize(center_crop(PHOTOS, IMAGE_SIZE))
    save_model(backbone, tmp_path / "backbone.keras")
    reloaded = keras.models.load_model(tmp_path / "backbone.keras")
    signatures = loaded.signatures
    found = {
        "keras": backbone(images, training=False),
        "reloaded": reloaded.predict(images, verbose=0),
        "serve": loaded.serve(PHOTOS)["features"],
        "default": signatures["serving_default"](images=tf.constant(PHOTOS))["features"],
        "serve_jpeg": loaded.serve_jpeg(tf.constant(files))["features"],
        "infer": loaded.infer(loaded.preprocess(PHOTOS)["images"])["features"],
        "layer": saved_model.BackboneLayer(path)(PHOTOS),
        "copy": saved_model.plain_copy(backbone)(images, training=False),
    }
    assert_exact(found, evaluated)
    # Not by being all alike:
    assert difference(evaluated[:1], evaluated[1:2]) > 0.1


@pytest.mark.slow
def test_files_of_all_kinds_and_sizes_in_one_batch_are_as_in_evaluation(loaded, backbone, tmp_path):
    image = Image.fromarray(PHOTOS[0])
    gray16 = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) << 8)
    jpegs = [image, image.convert("L"), image.convert("CMYK")]
    pngs = [image.resize(size) for size in ((7, 5), (1, 1), (1, 300))]
    pngs += [image.convert("RGBA"), image.convert("L"), image.quantize(16), gray16]
    files = {f"a{i}.jpg": encoded(jpeg, "JPEG") for i, jpeg in enumerate(jpegs)}
    files["b.jpg"] = encoded(image.resize((33, 90)), "JPEG", progressive=True)
    files |= {f"c{i}.png": encoded(png, "PNG") for i, png in enumerate(pngs)}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    source, _ = data.open_source(f"folder:{tmp_path}")
    expected, _ = extract_features(backbone, data.evaluation_batches(source, IMAGE_SIZE, 4))
    found = loaded.serve_jpeg(tf.constant(list(files.values())))["features"]
    assert difference(found, expected) < EXACT


@pytest.mark.slow
def test_transparent_files_are_shown_on_the_color_of_training(tmp_path):
    """In training's evaluation, `serve_jpeg` and the features of the Keras model alike."""
    backbone = tiny_backbone()
    images = [Image.fromarray(image).resize((19, 30)).convert("RGBA") for image in PHOTOS]
    for number, image in enumerate(images):
        image.putalpha(Image.linear_gradient("L").rotate(90 * number).resize(image.size))
    images = [*images, images[0].convert("LA"), images[1].quantize(16)]
    files = [encoded(image, "PNG") for image in images]
    (tmp_path / "images").mkdir()
    for number, content in enumerate(files):
        (tmp_path / "images" / f"{number}.png").write_bytes(content)
    path = saved_model.export_saved_model(
        backbone, tmp_path / "saved_model", IMAGE_SIZE, decoding=data.Decoding("#ff8000")
    )
    ground = Image.new("RGBA", images[0].size, "#ff8000")
    shown = [Image.alpha_composite(ground, image.convert("RGBA")) for image in images]
    pixels = np.array([np.asarray(image.convert("RGB")) for image in shown])
    expected = backbone(normalize(center_crop(pixels, IMAGE_SIZE)), training=False)

    source, _ = data.open_source(
        f"folder:{tmp_path / 'images'}", decoding=data.Decoding(background="#ff8000")
    )
    batches = data.evaluation_batches(source, IMAGE_SIZE, 4, resize=18)
    served = tf.saved_model.load(path)
    found = served.serve_jpeg(tf.constant(files))["features"]
    assert_exact({"evaluation": extract_features(backbone, batches)[0], "served": found}, expected)
    on_white = data.open_source(f"folder:{tmp_path / 'images'}")[0]
    batches = data.evaluation_batches(on_white, IMAGE_SIZE, 4, resize=18)
    assert difference(extract_features(backbone, batches)[0], expected) > 0.1
    card = json.loads((path / "assets.extra" / "card.json").read_text())
    assert card["preprocessing"]["serve_jpeg"]["background"] == "#ff8000"


@pytest.mark.parametrize(
    "shape", [(3, 1, 1), (1, 1, 50), (1, IMAGE_SIZE, IMAGE_SIZE), (2, 333, 16), (3, 64, 65)]
)
def test_images_of_any_size_in_batches_of_any_size(loaded, backbone, shape):
    images = random_images(*shape)
    source = data.ArraySource(images)
    batches = data.evaluation_batches(source, IMAGE_SIZE, 8, resize=18)
    expected, _ = extract_features(backbone, batches)
    assert difference(loaded.serve(images)["features"], expected) < EXACT


HOW = {"resize": IMAGE_SIZE, "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    """A backbone with a frozen layer, and where it is exported with a preprocessing of its own."""
    backbone, directory = tiny_backbone(), tmp_path_factory.mktemp("frozen")
    backbone.get_layer("convolution").trainable = False
    return backbone, saved_model.export_saved_model(backbone, directory, IMAGE_SIZE, **HOW)


@pytest.mark.slow
def test_resize_mean_and_std_are_those_of_evaluation(frozen):
    backbone, path = frozen
    batches = data.evaluation_batches(data.ArraySource(PHOTOS), IMAGE_SIZE, 8, **HOW)
    expected, _ = extract_features(backbone, batches)
    loaded = tf.saved_model.load(path)
    assert difference(loaded.serve(PHOTOS)["features"], expected) < EXACT
    found = json.loads((path / "assets.extra" / "card.json").read_text())["preprocessing"]
    assert (found["resize"], tuple(found["mean"]), tuple(found["std"])) == tuple(HOW.values())


def test_what_a_server_offers(path, loaded):
    assert set(loaded.signatures) == {"serving_default", "serve", "serve_jpeg", "infer"}
    inputs = {name: f.structured_input_signature[1] for name, f in loaded.signatures.items()}
    pixels = tf.TensorSpec([None, None, None, 3], tf.uint8, "images")
    assert inputs == {
        "serving_default": {"images": pixels},
        "serve": {"images": pixels},
        "serve_jpeg": {"encoded": tf.TensorSpec([None], tf.string, "encoded")},
        "infer": {"images": tf.TensorSpec([None, None, None, 3], tf.float32, "images")},
    }
    features = {"features": tf.TensorSpec([None, 16], tf.float32, "features")}
    assert [f.structured_outputs for f in loaded.signatures.values()] == 4 * [features]


@pytest.mark.slow
def test_requests_as_the_server_answers_them(path, evaluated):
    """The server loads by tag, finds tensors by the signature's names, and runs a session."""
    # What its REST interface makes of "b64" is the bytes; instances with a single named input are
    # one batch.
    strings = [encoded(photo, "PNG") for photo in PHOTOS]
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        model = tf.compat.v1.saved_model.load(session, ["serve"], str(path))
        found = {}
        for name, key, batch in (
            ("serve_jpeg", "encoded", strings),
            ("serve", "images", PHOTOS.tolist()),
            ("serving_default", "images", PHOTOS),
        ):
            signature = model.signature_def[name]
            assert signature.method_name == "tensorflow/serving/predict"
            feed = {signature.inputs[key].name: batch}
            found[name] = session.run(signature.outputs["features"].name, feed)
    assert_exact(found, evaluated)


PNG = encoded(PHOTOS[0], "PNG")
EMPTY = r"The batch and its images must not be empty. Received a batch of shape\] \[{}\]"
OTHER = (
    r"serve_jpeg takes JPEG and PNG files of up to 64 million pixels. "
    r"Received something else at position\] \[{}\]"
)


@pytest.mark.parametrize(
    ("endpoint", "batch", "message"),
    [
        ("serve_jpeg", [b"some text"], OTHER.format(0)),
        ("serve_jpeg", [PNG, encoded(PHOTOS[0], "GIF")], OTHER.format(1)),
        ("serve_jpeg", [PNG, PNG, b""], OTHER.format(2)),
        ("serve_jpeg", [encoded(PHOTOS[0], "JPEG")[:300]], "Invalid JPEG data"),
        ("serve_jpeg", [PNG[:100]], "Invalid PNG data"),
        ("serve_jpeg", np.zeros(0, object), EMPTY.format("0")),
        ("serve", np.zeros((0, 8, 9, 3), np.uint8), EMPTY.format("0 8 9 3")),
        ("serve", np.zeros((2, 0, 9, 3), np.uint8), EMPTY.format("2 0 9 3")),
        ("train", np.zeros((0, 8, 8, 3), np.float32), EMPTY.format("0 8 8 3")),
    ],
)
def test_what_cannot_be_served_is_said(loaded, endpoint, batch, message):
    batch = tf.constant(batch, tf.string) if endpoint == "serve_jpeg" else batch
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        getattr(loaded, endpoint)(batch)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 8, 8, 3), np.float32),  # TensorFlow would make zeros of images in 0..1
        tf.zeros((1, 8, 8, 3)),
        np.zeros((1, 8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.uint8),
    ],
    ids=["float", "float tensor", "alpha", "one image"],
)
def test_images_of_another_kind_are_refused(loaded, images):
    with pytest.raises(ValueError, match=r"(?s)Could not find matching.*uint8, name='images'"):
        loaded.serve(images)


def test_variables_are_the_backbones(loaded, backbone):
    for kind, count in (("", 30), ("trainable_", 18), ("non_trainable_", 12)):
        found, expected = (getattr(each, f"{kind}variables") for each in (loaded, backbone))
        assert len(found) == len(expected) == count
        assert [v.name for v in found] == [f"{v.path}:0" for v in expected]
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)
    assert all(any(v is w for w in loaded.variables) for v in loaded.trainable_variables)


@pytest.mark.slow
def test_train_uses_the_statistics_of_the_batch_and_moves_the_moving_ones(fresh, backbone):
    keras_model = saved_model.plain_copy(backbone)  # to be changed
    images = normalize(center_crop(PHOTOS, 24))  # larger than it was exported for
    before = [v.numpy() for v in fresh.variables]
    expected = keras_model(images, training=True)
    assert difference(fresh.train(images)["features"], expected) < EXACT
    for v, old, new in zip(fresh.variables, before, keras_model.variables, strict=True):
        np.testing.assert_allclose(v, new, rtol=1e-5, atol=1e-6)
        assert np.array_equal(v, old) == ("moving" not in v.name)
    after = [v.numpy() for v in fresh.variables]
    found = fresh.infer(images)["features"]
    assert difference(found, keras_model(images, training=False)) < EXACT
    assert difference(found, expected) > 0.01
    for v, old in zip(fresh.variables, after, strict=True):
        np.testing.assert_array_equal(v, old)


@pytest.mark.slow
def test_what_was_frozen_stays_frozen(frozen):
    _, path = frozen
    loaded = tf.saved_model.load(path)
    names = ["normalization/gamma", "normalization/beta"]
    assert [v.name for v in loaded.trainable_variables] == [f"{name}:0" for name in names]
    layer = saved_model.BackboneLayer(path)
    assert [v.path for v in layer.trainable_variables] == [n.replace("/", "_") for n in names]
    assert len(layer.variables) == len(loaded.variables) == 6


@pytest.mark.slow
def test_a_backbone_trained_on_two_replicas(tmp_path):
    with choose_strategy("mirrored").scope():
        backbone = tiny_backbone()
        prepare_batch_normalization(backbone)
        model = keras.Sequential([backbone, keras.layers.Dense(2)])
        model.compile(keras.optimizers.SGD(0.1), "mse")
        with pytest.raises(ValueError, match=r"must be called outside strategy.scope\(\)"):
            saved_model.export_saved_model(backbone, tmp_path / "no", IMAGE_SIZE)
    assert not (tmp_path / "no").exists()
    images = normalize(center_crop(PHOTOS, IMAGE_SIZE))
    model.fit(images, np.zeros((6, 2)), batch_size=6, verbose=0)
    path = saved_model.export_saved_model(backbone, tmp_path / "models", IMAGE_SIZE)
    plain = tiny_backbone()
    plain.set_weights(backbone.get_weights())
    loaded = tf.saved_model.load(path)
    assert difference(loaded.serve(PHOTOS)["features"], plain(images)) < EXACT
    assert difference(loaded.train(images)["features"], plain(images, training=True)) < EXACT
    for v, expected in zip(loaded.variables, plain.variables, strict=True):
        np.testing.assert_allclose(v, expected, rtol=1e-5, atol=1e-6)
    assert backbone.get_layer("normalization").synchronized  # not changed by the export
    assert b"CollectiveReduce" not in (path / "saved_model.pb").read_bytes()


def test_a_plain_copy_computes_in_float32_on_one_device():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        inner = keras.Sequential(
            [keras.layers.Input((8, 8, 3)), keras.layers.BatchNormalization(synchronized=True)],
            name="inner",
        )
        outputs = keras.layers.GlobalMaxPooling2D()(inner(inner.inputs[0]))
        copy = saved_model.plain_copy(keras.Model(inner.inputs[0], outputs))
    finally:
        keras.config.set_dtype_policy("float32")
    nested = copy.get_layer("inner").layers[-1]
    assert not nested.synchronized
    assert nested.compute_dtype == copy.layers[-1].compute_dtype == "float32"


def test_the_card_says_what_it_is(path):
    card = json.loads((path / "assets.extra" / "card.json").read_text())
    given = (card["data"], card["metrics"], card["settings"])
    assert given == ("noise", {"loss": 1.5}, {"epochs": 3})
    found = [card["backbone"][name] for name in ("name", "parameters", "features")]
    assert found == ["resnet18", 5096, 16]
    assert "resized to 18 pixels" in card["preprocessing"]["in words"]
    assert "The central 16 × 16" in card["preprocessing"]["in words"]
    assert len(card["inputs"]) == 5
    assert card["versions"]["tensorflow"] == tf.__version__
    assert card["versions"]["keras_bt"] == "0.1.0"


def test_a_failing_export_leaves_what_was_there(path, tmp_path, monkeypatch):
    files = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}

    def disk_full(exported, folder, signatures):
        (tmp_path / "called").touch()
        tf.io.gfile.makedirs(folder)
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", disk_full)
    with pytest.raises(OSError, match=r"could not be written\. No space left on device"):
        saved_model.export_saved_model(tiny_backbone(), path.parent, IMAGE_SIZE)
    assert [p.name for p in tmp_path.iterdir()] == ["called"]
    assert {p: p.read_bytes() for p in path.parent.rglob("*") if p.is_file()} == files


@pytest.mark.slow
def test_mistakes_are_said_before_anything_is_written(tmp_path):
    tiny = tiny_backbone()

    def mistake(model=tiny, directory=tmp_path / "models", **arguments):
        with pytest.raises((ValueError, OSError)) as caught:
            saved_model.export_saved_model(model, directory, **{"image_size": 16, **arguments})
        assert not (tmp_path / "models").exists()
        return str(caught.value)

    assert mistake(image_size=0) == "A size must be one or two positive ints. Received: 0."
    rule = "resize must be at least image_size, of two numbers the smaller one. Received: "
    assert mistake(image_size=16, resize=15) == rule + "image_size=16, resize=15."
    assert mistake(image_size=(24, 16), resize=15) == rule + "image_size=(24, 16), resize=15."
    assert "one number per channel. Received: 3 and 2" in mistake(std=(1, 1))
    five = mistake(mean=(0,) * 5, std=(1,) * 5)
    assert "must take images of 16×16×5. Received: tiny, which takes (None, None, None, 3)" in five
    assert "card must consist of JSON values. Object of" in mistake(card={"x": np.zeros(2)})
    (tmp_path / "file").write_text("text")
    assert mistake(directory=tmp_path / "file").endswith("file, a file.")
    images = keras.Input((8, 8, 3))
    maps = keras.Model(images, keras.layers.Conv2D(4, 3)(images), name="maps")
    assert mistake(maps, image_size=8) == (
        "backbone must return one vector per image. Received: output shape (None, 6, 6, 4)."
    )
    assert mistake(maps).startswith(
        "backbone must take images of 16×16×3. Received: maps, which takes (None, 8, 8, 3) ("
    )

    class Unknown(keras.Model):
        def __init__(self, size):  # which its configuration lacks
            super().__init__(name="unknown")

        def call(self, images):
            return keras.ops.mean(images, (1, 2))

    unknown = Unknown(3)
    assert mistake(unknown).startswith(
        "backbone must be a model that keras.models.load_model can rebuild. Received: unknown ("
    )
