"""What is refused because no memory could hold it, before it is allocated."""

import keras
import pytest

import keras_bt
from trainers.runs import memory
from trainers.runs.settings import PretrainingSettings


@pytest.mark.parametrize("depth", [18, 50])
def test_the_weights_are_counted(depth):
    backbone = keras_bt.resnet(depth, "small", 8)
    projector = keras_bt.projector((32, 24), backbone.output_shape[-1])
    kernels = [
        layer.kernel
        for model in (backbone, projector)
        for layer in model.layers
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense)) and layer.name != "conv1"
    ]
    settings = PretrainingSettings(backbone=f"resnet{depth}", width=8, projector="32-24")
    assert memory.parameters(settings) == sum(kernel.shape.num_elements() for kernel in kernels)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"width": 4096, "backbone": "resnet152"}, r"--width=4096, .*need 2,8\d\d GB\."),
        ({"projector": "1000000-1000000"}, r"--projector=1000000-1000000, which need 12,002 GB\."),
        ({"backbone": "b.keras", "projector": "1000000-1000000"}, "need 12,000 GB"),
        ({"batch_size": 2**18, "image_size": (1024, 2048)}, r"image_size=\(1024, 2048\), which"),
    ],
)
def test_what_no_machine_holds_is_refused(settings, words, monkeypatch):
    monkeypatch.setattr(memory, "memory", lambda: 2e12)
    with pytest.raises(ValueError, match=words):
        memory.check(PretrainingSettings(**settings), 3, 1)
    if "batch_size" in settings:  # other machines have their part
        memory.check(PretrainingSettings(**settings), 3, 16)
        memory.check(PretrainingSettings(**settings), 3, 7)
        with pytest.raises(ValueError, match="The views of a batch"):
            memory.check(PretrainingSettings(**settings), 3, 7, views=3)


def test_what_people_train_is_not_refused():
    assert memory.memory() > 2**30
    memory.check(PretrainingSettings(), 3, 1)
