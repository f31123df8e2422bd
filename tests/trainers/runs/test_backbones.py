import keras
import numpy as np
import pytest

from keras_bt import workdir
from keras_bt.preprocessing import normalize
from trainers.runs import backbones


def pooled(*layers):
    return keras.Sequential(
        [keras.Input((8, 8, 3)), *layers, keras.layers.GlobalAveragePooling2D()], name="theirs"
    )


@pytest.mark.parametrize(
    ("first", "wrapped"),
    [
        (lambda: keras.layers.Rescaling(1 / 255), True),
        (lambda: keras.layers.Normalization(mean=[120, 110, 100], variance=[60**2] * 3), True),
        (lambda: keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Rescaling(2.0)]), True),
        (lambda: keras.layers.Conv2D(3, 1), False),
        (lambda: keras.layers.BatchNormalization(), False),
    ],
)
def test_a_backbone_with_a_rescaling_of_its_own_sees_0_to_255(first, wrapped, tmp_path, capsys):
    theirs = pooled(first())
    path = tmp_path / "theirs.keras"
    theirs.save(path)
    backbone = backbones.build(str(path), "small", 16, 8)
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype("float32")
    seen = images if wrapped else normalize(images)
    np.testing.assert_allclose(backbone(normalize(images)), theirs(seen), rtol=1e-4, atol=1e-4)
    assert ("of its own, so it is given pixels from 0 to 255" in capsys.readouterr().out) == wrapped
    # What a run leaves is not wrapped again.
    backbone.save(path)
    again = backbones.build(str(path), "small", 16, 8)
    np.testing.assert_allclose(again(normalize(images)), theirs(seen), rtol=1e-4, atol=1e-4)
    assert capsys.readouterr().out == ""


def test_a_rescaling_is_given_0_to_255_of_any_channels(tmp_path):
    layers = [keras.layers.Rescaling(0.1), keras.layers.GlobalAveragePooling2D()]
    theirs = keras.Sequential([keras.Input((8, 8, 5)), *layers])
    theirs.save(tmp_path / "theirs.keras")
    backbone = backbones.build(str(tmp_path / "theirs.keras"), "small", 16, 8, 5, "none")
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 5)).astype("float32")
    np.testing.assert_allclose(backbone(images / 255), theirs(images), rtol=1e-4)


@pytest.mark.slow
def test_of_keras_applications(capsys):
    network = keras.applications.MobileNetV3Small(
        input_shape=(32, 32, 3), include_top=False, pooling="avg", weights=None
    )
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("float32")
    found = backbones.fed_what_it_expects(network)(normalize(images))
    np.testing.assert_allclose(found, network(images), rtol=1e-3, atol=1e-5)
    assert "begins with a Rescaling of its own" in capsys.readouterr().out


@pytest.mark.parametrize(("setting", "command"), [("recipe", "pretrain"), ("unseen", "siamese")])
def test_an_unfinished_run_is_continued_by_its_own_command(setting, command, tmp_path):
    workdir.write_record(tmp_path / "config.json", {"settings": {setting: None}})
    with pytest.raises(ValueError, match=f"the same trainers.{command} command continues it"):
        backbones.find(str(tmp_path))
