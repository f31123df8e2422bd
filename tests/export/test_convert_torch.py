import pickle

import keras
import numpy as np
import pytest
import script

from keras_bt import BarlowTwins, projector, resnet, torch_weights
from keras_bt.data import IMAGENET_MEAN


def randomized(model):
    draw = np.random.default_rng(2)
    for variable in model.weights:
        variable.assign(draw.normal(size=variable.shape).astype("float32"))
    return model


@pytest.fixture(scope="module")
def backbone():
    return randomized(resnet(18, "small", 4))


@pytest.fixture(scope="module")
def state(backbone):
    """A whole checkpoint, as DistributedDataParallel names it."""
    whole = torch_weights.state_dict(backbone, randomized(projector((8, 6, 5), 32)))
    return {f"module.{name}": array for name, array in whole.items()}


def convert(*flags):
    script.call("convert_torch", *flags, package="export")


def mistake(capsys, *flags):
    return script.mistake(capsys, "convert_torch", *flags, package="export")


def equal_weights(model, other):
    for ours, theirs in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_a_backbone_there_and_back(tmp_path, capsys, backbone, ending):
    if ending == ".pth":
        pytest.importorskip("torch", reason="PyTorch is not installed")
    run, file, again = tmp_path / "run", tmp_path / f"a{ending}", tmp_path / "b.keras"
    run.mkdir()
    backbone.save(run / "backbone.keras")
    convert(f"--source={run}", f"--target={file}")
    said = capsys.readouterr().out
    assert "a ResNet-18 with the small stem and width 4" in said
    assert "20 convolutions and 20 normalizations" in said
    assert f"{sum(int(np.prod(v.shape)) for v in backbone.weights):,} numbers" in said
    assert f"Written: {file}" in said
    convert(f"--source={file}", f"--target={again}")
    loaded = keras.models.load_model(again)
    equal_weights(loaded, backbone)
    images = np.full((1, 16, 16, 3), IMAGENET_MEAN, "float32")
    np.testing.assert_array_equal(loaded(images), backbone(images))
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([file.name, again.name, run.name])


@pytest.mark.slow
def test_a_whole_checkpoint_there_and_back(tmp_path, capsys, backbone, state):
    source, target = tmp_path / "checkpoint.safetensors", tmp_path / "model.keras"
    torch_weights.write_state_dict(source, state)
    convert(f"--source={source}", f"--target={target}", "--with_projector")
    said = capsys.readouterr().out
    assert "a projector 8-6-5, 390 numbers" in said
    assert "Not converted" not in said
    model = keras.models.load_model(target)
    assert isinstance(model, BarlowTwins)
    equal_weights(model.backbone, backbone)

    back = tmp_path / "back.safetensors"
    convert(f"--source={target}", f"--target={back}", "--with_projector")
    assert "a projector 8-6-5, 390 numbers" in capsys.readouterr().out
    for name, array in torch_weights.read_state_dict(back).items():
        np.testing.assert_array_equal(array, state[f"module.{name}"])

    for whole, alone in ((target, "alone.safetensors"), (source, "alone.keras")):
        convert(f"--source={whole}", f"--target={tmp_path / alone}")
        said = capsys.readouterr().out
        assert "Not converted: the projector (it needs --with_projector)" in said
    equal_weights(keras.models.load_model(tmp_path / "alone.keras"), backbone)
    found = torch_weights.read_state_dict(tmp_path / "alone.safetensors")
    equal_weights(torch_weights.backbone_of(found), backbone)

    # It trains on.
    model.compile("sgd", run_eagerly=True)
    views = np.random.default_rng(0).normal(size=(2, 4, 16, 16, 3)).astype("float32")
    assert np.isfinite(model.train_on_batch(*views, return_dict=True)["loss"])


@pytest.mark.slow
def test_a_classifier(tmp_path, capsys, backbone):
    source, target = tmp_path / "resnet18.safetensors", tmp_path / "backbone.keras"
    head = {"fc.weight": np.ones((10, 32), "float32"), "fc.bias": np.ones(10, "float32")}
    torch_weights.write_state_dict(source, torch_weights.state_dict(backbone) | head)
    assert "fc.bias, fc.weight. fc is a classifier, which drop_head leaves out" in mistake(
        capsys, f"--source={source}", f"--target={target}"
    )
    convert(f"--source={source}", f"--target={target}", "--drop_head")
    assert "Not converted: the classifier" in capsys.readouterr().out
    equal_weights(keras.models.load_model(target), backbone)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("text.pth", "must be a file of tensors as torch.save writes it"),
        ("code.pth", "must "),
        ("missing.safetensors", "Missing: backbone.bn1.bias."),
        ("cut.safetensors", "must be a safetensors file"),
        ("nothing.pth", "--source must be a file or the folder of a run"),
        ("a.h5", "must end in .pth"),
    ],
)
def test_sources_that_are_refused_leave_the_target_alone(tmp_path, capsys, state, name, message):
    if name.endswith(".pth"):
        pytest.importorskip("torch", reason="PyTorch is not installed")
    source, target = tmp_path / name, tmp_path / "backbone.keras"
    target.write_text("old")
    if name.endswith(".safetensors"):
        missing = "module.backbone.bn1.bias"
        rest = {name: array for name, array in state.items() if name != missing}
        torch_weights.write_state_dict(source, rest)
        if name == "cut.safetensors":
            source.write_bytes(source.read_bytes()[:-100])
    elif name != "nothing.pth":
        source.write_bytes(pickle.dumps({"a": print}) if name == "code.pth" else b"no tensors")
    line = mistake(capsys, f"--source={source}", f"--target={target}", "--overwrite")
    assert message in line
    assert target.read_text() == "old"
    assert not list(tmp_path.glob("*partial*"))


def test_keras_models_that_are_refused(tmp_path, capsys, backbone):
    target = tmp_path / "a.safetensors"
    target.write_text("old")
    (tmp_path / "text.keras").write_text("no model")
    images = keras.Input((32, 32, 3))
    keras.Model(images, keras.layers.Conv2D(4, 3)(images)).save(tmp_path / "other.keras")
    backbone.save(tmp_path / "backbone.keras")
    (tmp_path / "run").mkdir()
    for source, flag, message in [
        ("text.keras", "", "--source must be a Keras model"),
        ("other.keras", "", "must be those of a ResNet"),
        ("backbone.keras", "--with_projector", "needs the file of a whole keras_bt.BarlowTwins"),
        ("run", "", "--source must be a finished run"),
        ("run", "--with_projector", "a run's backbone.keras has none"),
        ("backbone.keras", "--drop_head", "--drop_head is for files of PyTorch"),
    ]:
        flags = [f"--source={tmp_path / source}", f"--target={target}", "--overwrite"]
        assert message in mistake(capsys, *flags, *filter(None, [flag]))
        assert target.read_text() == "old"
    assert not list(tmp_path.glob("*partial*"))


def test_wrong_flags(tmp_path, capsys):
    source, target = tmp_path / "a.safetensors", tmp_path / "a.keras"
    torch_weights.write_state_dict(source, {"a": np.ones(1, "float32")})
    target.write_text("old")
    for flags, message in [
        ([], "--source is needed"),
        ([f"--source={source}"], "--target is needed"),
        ([f"--source={source}", f"--target={source}"], "the --target must end in .keras"),
        ([f"--source={target}", f"--target={tmp_path}/b.keras"], "must end in .pth, .pt"),
        ([f"--source={target}", f"--target={tmp_path}/b.onnx"], "must end in .pth, .pt"),
        ([f"--source={source}", f"--target={target}"], "exists. Pass --overwrite"),
        ([f"--source={source}", f"--target={source}/b.keras"], "--target must be a file that can"),
        ([f"--source={source}", f"--targte={target}"], "targte"),
    ]:
        assert message in mistake(capsys, *flags)
    assert target.read_text() == "old"


@pytest.mark.slow
def test_overwriting_and_failing_to_write(tmp_path, monkeypatch, capsys, backbone):
    source, target = tmp_path / "a.safetensors", tmp_path / "a.keras"
    torch_weights.write_state_dict(source, torch_weights.state_dict(backbone))
    target.write_text("old")

    def full(model, path):
        path.write_text("half")
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(keras.Model, "save", full)
        line = mistake(capsys, f"--source={source}", f"--target={target}", "--overwrite")
    assert "No space left" in line
    assert target.read_text() == "old"
    convert(f"--source={source}", f"--target={target}", "--overwrite")
    equal_weights(keras.models.load_model(target), backbone)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.keras", "a.safetensors"]
