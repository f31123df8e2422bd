import functools
import json
import pickle
import sys
import zipfile

import keras
import numpy as np
import pytest
from oracles import weights_formula
from places import FIXTURES

from keras_bt import BarlowTwins, projector, resnet, torch_weights


def shapes_of(name):
    return {tensor: tuple(shape) for tensor, shape in json.loads(read(name))}


def read(name):
    return (FIXTURES / f"{name}_tensors.json").read_text()


def formula_state(name):
    """The state dict of the fixtures' recipe, as PyTorch has it."""
    return {
        tensor: np.asarray(
            weights_formula(tensor, shape) if shape else 7,
            "int64" if tensor.endswith("num_batches_tracked") else "float32",
        )
        for tensor, shape in shapes_of(name).items()
    }


def randomize(*models):
    """Gives every variable its own numbers, running statistics included."""
    draw = np.random.default_rng(1)
    for model in models:
        for variable in model.weights:
            variable.assign(draw.normal(size=variable.shape).astype("float32"))


def relative_error(value, reference):
    return np.linalg.norm(value - reference) / np.linalg.norm(reference)


@functools.cache
def small_state():
    backbone, head = resnet(18, "small", 4), projector((8, 6, 5), 32)
    randomize(backbone, head)
    return torch_weights.state_dict(backbone, head)


def needs_torch(ending):
    if ending == ".pth":
        pytest.importorskip("torch", reason="PyTorch is not installed")


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "ending"), [(18, ".pth"), (50, ".safetensors")])
def test_a_file_of_torchvision_gives_its_features(tmp_path, fixture_arrays, depth, ending):
    needs_torch(ending)
    reference = fixture_arrays("resnet", f"resnet{depth}/64")
    path = tmp_path / f"resnet{depth}{ending}"
    torch_weights.write_state_dict(path, formula_state(f"resnet{depth}"))
    backbone = torch_weights.backbone_of(torch_weights.read_state_dict(path))
    images = weights_formula("images64", (2, 64, 64, 3)).astype("float32")
    assert relative_error(backbone(images, training=False), reference["features_eval"]) < 1e-5


# The counts are those of torchvision's networks without their classifiers.
@pytest.mark.parametrize(
    ("depth", "stem", "width", "count", "ending"),
    [
        (18, "small", 8, 120, ".safetensors"),
        pytest.param(34, "imagenet", 2, 216, ".safetensors", marks=pytest.mark.slow),
        pytest.param(18, "imagenet", 64, 120, ".pth", marks=pytest.mark.slow),
        pytest.param(50, "imagenet", 64, 318, ".safetensors", marks=pytest.mark.slow),
        pytest.param(152, "imagenet", 2, 930, ".safetensors", marks=pytest.mark.slow),
    ],
)
def test_there_and_back_changes_no_bit(tmp_path, depth, stem, width, count, ending):
    needs_torch(ending)
    backbone = resnet(depth, stem, width)
    randomize(backbone)
    state = torch_weights.state_dict(backbone)
    assert len(state) == count
    path = tmp_path / f"backbone{ending}"
    torch_weights.write_state_dict(path, state)
    again = torch_weights.backbone_of(torch_weights.read_state_dict(path))
    assert [layer.name for layer in again.layers] == [layer.name for layer in backbone.layers]
    for ours, theirs in zip(again.weights, backbone.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.slow
def test_a_published_checkpoint_comes_back():
    state = formula_state("trajectory")
    model = BarlowTwins(resnet(18), projector((64, 64, 64), 512))
    torch_weights.load_model({f"module.{name}": array for name, array in state.items()}, model)
    written = torch_weights.state_dict(model.backbone, model.projector)
    assert {name: array.shape for name, array in written.items()} == shapes_of("trajectory")
    for name, array in written.items():
        assert array.dtype == state[name].dtype
        if name.endswith("num_batches_tracked"):
            assert array == 0
        elif not name.startswith("bn."):
            np.testing.assert_array_equal(array, state[name])
    np.testing.assert_array_equal(written["bn.running_mean"], np.zeros(64))
    np.testing.assert_array_equal(written["bn.running_var"], np.ones(64))


@pytest.mark.slow
def test_a_checkpoint_saved_by_pytorch_trains_on_as_in_pytorch(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    import torch_barlow_twins

    def exclude_bias_and_norm(p):
        return p.ndim == 1

    # The official optimizer's settings hold a function of the training script.
    exclude_bias_and_norm.__module__ = "__main__"
    exclude_bias_and_norm.__qualname__ = "exclude_bias_and_norm"
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "exclude_bias_and_norm", exclude_bias_and_norm, raising=False)

    torch.set_num_threads(1)  # two would wait for each other on a busy machine
    torch.manual_seed(0)
    theirs = torch_barlow_twins.BarlowTwins(8, (32, 32, 24))
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.01)
    images = np.random.default_rng(0).normal(size=(2, 2, 8, 3, 64, 64)).astype("float32")
    images[:, 1] = 0.8 * images[:, 0] + 0.4 * images[:, 1]
    images = images[[0, 1, 1]]  # the last twice, so that only a step is between its two losses

    def pytorch_step(views):
        optimizer.zero_grad()
        loss = theirs(*map(torch.from_numpy, views))
        loss.backward()
        optimizer.step()
        return loss.item()

    pytorch_step(images[0])  # so that statistics are not those of a new model
    optimizer.param_groups[0]["weight_decay_filter"] = exclude_bias_and_norm
    checkpoint = {
        "epoch": 1,
        "model": {f"module.{name}": tensor for name, tensor in theirs.state_dict().items()},
        "optimizer": optimizer.state_dict(),
    }
    torch.save(checkpoint, tmp_path / "checkpoint.pth")
    expected = [pytorch_step(views) for views in images[1:]]

    state = torch_weights.read_state_dict(tmp_path / "checkpoint.pth")
    model = BarlowTwins(torch_weights.backbone_of(state), torch_weights.projector_of(state))
    model.compile(keras.optimizers.SGD(0.01), run_eagerly=True)
    losses = []
    for views in images[1:].transpose(0, 1, 2, 4, 5, 3):
        model.reset_metrics()
        losses.append(model.train_on_batch(*views, return_dict=True)["loss"])
    assert expected[1] < 0.9 * expected[0]
    np.testing.assert_allclose(losses, expected, rtol=2e-4)

    # And what PyTorch reads back is the network that was trained here.
    back = torch_weights.state_dict(model.backbone, model.projector)
    torch_weights.write_state_dict(tmp_path / "back.pth", back)
    theirs.load_state_dict(torch.load(tmp_path / "back.pth", weights_only=True))
    features = theirs.eval().backbone(torch.from_numpy(images[0, 0])).detach().numpy()
    ours = model(images[0, 0].transpose(0, 2, 3, 1), training=False)
    assert relative_error(ours, features) < 1e-5


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_floating_types_become_float32(tmp_path, dtype):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    import safetensors.torch

    tensor = torch.tensor([1.5, -2.25]).to(getattr(torch, dtype))
    torch.save({"a": tensor}, tmp_path / "a.pth")
    safetensors.torch.save_file({"a": tensor}, tmp_path / "a.safetensors")
    for path in tmp_path.iterdir():
        (array,) = torch_weights.read_state_dict(path).values()
        assert array.dtype == "float32"
        np.testing.assert_array_equal(array, [1.5, -2.25])


def without(state, part):
    return {name: array for name, array in state.items() if part not in name}


def ones(*shape, dtype="float32"):
    return np.ones(shape, dtype)


@pytest.mark.parametrize(
    ("left_out", "added", "message"),
    [
        ("backbone.bn1.bias", {}, r"Missing: backbone\.bn1\.bias\.$"),
        ("projector.4.weight", {}, r"Missing: projector\.4\.weight\.$"),
        ("backbone.conv1.weight", {}, "Received: stages .* no conv1.weight"),
        ("layer4.1.bn2.running_var", {}, r"Missing: \S*layer4\.1\.bn2\.running_var\.$"),
        (".layer4.1.", {}, "stages of 2-2-2-1 blocks with two convolutions"),
        ("projector.", {}, "There must be a projector"),
        (None, {"backbone.layer1.0.conv1.bias": ones(4)}, r"Unexpected: \S*layer1\.0\.conv1\.bias"),
        (None, {"predictor.weight": ones(4)}, r"Unexpected: predictor\.weight\.$"),
        (None, {"bn.weight": ones(5)}, r"Unexpected: bn\.weight\.$"),
        (
            None,
            {"bn.running_mean": ones(6)},
            r"Misshapen: bn\.running_mean \(6,\) instead of \(5,\)\.$",
        ),
        (
            None,
            {"backbone.layer2.0.downsample.0.weight": ones(8, 4, 3, 3)},
            r"Misshapen: \S*downsample\.0\.weight \(8, 4, 3, 3\) instead of \(8, 4, 1, 1\)\.$",
        ),
        (
            None,
            {"backbone.bn1.weight": ones(4, dtype="int8")},
            r"Not of a floating type: backbone\.bn1\.weight \(int8\)\.$",
        ),
        (
            None,
            {"backbone.fc.weight": ones(2, 32), "backbone.fc.bias": ones(2)},
            r"Unexpected: backbone\.fc\.weight, backbone\.fc\.bias\. fc is a classifier",
        ),
        (
            "",
            {f"features.{i}.weight": ones(1) for i in range(9)},
            r"ResNet of depth 18, 34.* Received: features\.0\.weight, .* and \d+ more\.$",
        ),
    ],
)
def test_every_tensor_is_accounted_for(left_out, added, message):
    state = (small_state() if left_out is None else without(small_state(), left_out)) | added
    with pytest.raises(ValueError, match=message):
        torch_weights.backbone_of(state), torch_weights.projector_of(state)


def test_nothing_is_loaded_unless_all_of_it_fits():
    model = BarlowTwins(resnet(18, "small", 4), projector((8, 6, 5), 32))
    before = [np.array(variable) for variable in model.weights]
    state = without(small_state(), "projector.6.weight")
    with pytest.raises(ValueError, match=r"Missing: projector\.6\.weight"):
        torch_weights.load_model(state, model)
    for variable, array in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(variable, array)


@pytest.mark.slow
def test_a_classifier_is_left_out_when_asked():
    backbone = resnet(18, "small", 4)
    state = torch_weights.state_dict(backbone)
    state |= {"fc.weight": np.ones((10, 32), "float32"), "fc.bias": np.ones(10, "float32")}
    with pytest.raises(ValueError, match=r"fc\.weight, fc\.bias\. fc is a classifier.*drop_head"):
        torch_weights.backbone_of(state)
    found = torch_weights.backbone_of(state, drop_head=True)
    np.testing.assert_array_equal(found.weights[0], backbone.weights[0])
    with pytest.raises(ValueError, match=r"Unexpected: fc\.scale\.$"):
        torch_weights.backbone_of(state | {"fc.scale": np.ones(2)}, drop_head=True)


@pytest.mark.slow
def test_only_models_that_pytorch_has_are_written():
    images = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(4, 3, name="conv1")(images)
    plain = keras.Model(images, keras.layers.GlobalAveragePooling2D()(x))
    good, head = resnet(18, "small", 4), projector((8, 5), 32)
    longer = keras.Model(good.input, keras.layers.ReLU(name="more")(good.output))
    biased = keras.Sequential([keras.layers.Input((32,)), keras.layers.Dense(5, name="linear1")])
    for *models, message in (
        (plain, None, "must be those of a ResNet"),
        (longer, None, "must be a keras_bt.resnet. Received: functional"),
        (good, biased, "must be a keras_bt.projector"),
        (good, good, "must be a keras_bt.projector"),
        (head, good, "must be those of a ResNet"),  # swapped
    ):
        with pytest.raises(ValueError, match=message):
            torch_weights.state_dict(*models)


class RunsCode:
    """A pickle of it opens a file for writing when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("protocol", [None, 2, 5])
def test_code_in_a_pickle_does_not_run(tmp_path, protocol):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    path, trap = tmp_path / "resnet50.pth", tmp_path / "trap"
    content = {"model": {"conv1.weight": RunsCode(trap)}}
    if protocol is None:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(ValueError, match=r"must (hold tensors only|be a file of tensors)") as error:
        torch_weights.read_state_dict(path)
    assert "\n" not in str(error.value)
    assert not trap.exists()
    if protocol is None:
        assert "Received: io.open, which is refused" in str(error.value)
        torch.load(path, weights_only=False)["model"]["conv1.weight"].close()
        assert trap.exists()  # it would have run


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("case", ["cut short", "text", "empty", "zip", "folder", "none"])
def test_files_that_are_none(tmp_path, case, ending):
    needs_torch(ending)
    path = tmp_path / f"resnet18{ending}"
    if case == "cut short":
        torch_weights.write_state_dict(path, {"conv1.weight": np.ones((64, 3, 7, 7), "float32")})
        path.write_bytes(path.read_bytes()[:9000])
    elif case == "zip":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a/b.txt", "text")
    elif case == "folder":
        path.mkdir()
    elif case != "none":
        path.write_text("These are no tensors.\n" * (case == "text"))
    with pytest.raises(ValueError, match=r"must be a|file of PyTorch tensors is needed") as error:
        torch_weights.read_state_dict(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "must hold a state dict, tensors by name. Received: list"),
        ({}, "Received: dict without any"),
        ({"epoch": 3, "net": {}}, "Received: epoch, net, which are not tensors"),
    ],
)
def test_pickles_without_tensors(tmp_path, content, message):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=message):
        torch_weights.read_state_dict(tmp_path / "a.pth")


def test_other_endings(tmp_path):
    for use in (torch_weights.read_state_dict, lambda p: torch_weights.write_state_dict(p, {})):
        with pytest.raises(ValueError, match=r"must end in \.pth, .*\.safetensors\..*h5"):
            use(tmp_path / "a.h5")


def test_without_pytorch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    state = {"a": np.arange(3, dtype="float32")}
    path = tmp_path / "a.pth"
    with pytest.raises(ValueError, match=r'need PyTorch: pip install "keras_bt\[torch\]"'):
        torch_weights.write_state_dict(path, state)
    assert not list(tmp_path.iterdir())
    path.touch()
    with pytest.raises(ValueError, match="need PyTorch"):
        torch_weights.read_state_dict(path)
    torch_weights.write_state_dict(tmp_path / "a.safetensors", state)
    (array,) = torch_weights.read_state_dict(tmp_path / "a.safetensors").values()
    np.testing.assert_array_equal(array, state["a"])


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_a_failing_write_leaves_the_old_file(tmp_path, ending):
    needs_torch(ending)
    path = tmp_path / f"a{ending}"
    path.write_text("old")
    with pytest.raises(Exception, match=r"."):
        torch_weights.write_state_dict(path, {"a": np.array(["no number"])})
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
