"""Converts PyTorch weights, both ways: python -m export.convert_torch --source=FILE --target=FILE.

The file names decide the direction. From PyTorch:

    --source=resnet50.pth --target=backbone.keras       the published backbone, or torchvision's
    --source=checkpoint.pth --target=backbone.keras     that of the published full checkpoint
    --source=checkpoint.pth --target=model.keras --with_projector

The last is a `keras_bt.BarlowTwins`, to continue training with your own optimizer and images:

    import keras, keras_bt
    model = keras.models.load_model("model.keras")
    rate = keras_bt.warmup_cosine(0.2, steps=100_000, warmup_steps=1_000)
    model.compile(keras_bt.LARS(rate, bias_rate_ratio=0.024, weight_decay=1e-6))
    model.fit(views)        # batches (view_a, view_b), see keras_bt.data.pretraining_views

The optimizer's momentum is not converted. `trainers.pretrain --backbone=backbone.keras` also starts
from an imported backbone, with a new projector.

To PyTorch, under torchvision's names, which timm's resnet18 to resnet152 share and which
detectron2's tools/convert-torchvision-to-d2.py converts to its own:

    --source=RUN --target=resnet50.pth                  the backbone of a trainers.pretrain run
    --source=backbone.keras --target=resnet50.safetensors
    --source=model.keras --target=checkpoint.pth --with_projector

`.pth` files need PyTorch (`pip install "keras_bt[torch]"`), `.safetensors` do not. Files are read
without running any code in them. Every tensor must be accounted for, or nothing is written.
"""

import dataclasses
import math
import pathlib

from trainers.cli import command
from trainers.runs.fields import Settings, setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertSettings(Settings):
    """The flags."""

    source: str | None = setting(
        None,
        "File to convert (.pth, .pt, .tar, .safetensors or .keras), or the folder of a run.",
    )
    target: str | None = setting(
        None, "File to write (.keras, or .pth, .pt, .tar or .safetensors)."
    )
    with_projector: bool = setting(
        False, "Convert the projector too, to continue training the whole model."
    )
    drop_head: bool = setting(
        False, "Leave out the classifier, fc, that torchvision's own files have."
    )
    overwrite: bool = setting(False, "Replace the target if it exists.")


def convert_torch(flags):
    """Converts the source and prints what was converted."""
    with command.mistakes:
        source, target = paths(flags)
        # Imported only once the paths are known to be right: TensorFlow takes seconds.
        with command.quiet_start():
            from keras_bt import messages
            from keras_bt.torch_weights import files as torch_files

        messages.check_writable("--target", target)
        if target.suffix == ".keras":
            counts = from_torch(source, target, flags)
        else:
            torch_files.check_ending(target)
            counts = to_torch(source, target, flags)
        print(f"{source}: {counts}")
        print(f"Written: {target}")


def paths(flags):
    """Returns the source and the target, checked as far as their names allow.

    Raises:
        ValueError: one is missing, both are of the same kind, or the target exists.
    """
    for name in ("source", "target"):
        if not getattr(flags, name):
            raise ValueError(f"--{name} is needed. See python -m export.convert_torch --help.")
    source, target = pathlib.Path(flags.source), pathlib.Path(flags.target)
    if not source.exists():
        raise ValueError(f"--source must be a file or the folder of a run. Received: {source}")
    from_keras = source.is_dir() or source.suffix == ".keras"
    if from_keras == (target.suffix == ".keras"):
        wanted = ".pth, .pt, .tar or .safetensors" if from_keras else ".keras"
        raise ValueError(f"From {source} the --target must end in {wanted}. Received: {target}")
    if from_keras and flags.drop_head:
        raise ValueError(f"--drop_head is for files of PyTorch. Received: --source={source}")
    if source.is_dir():
        source = source / "backbone.keras"
        if flags.with_projector:
            raise ValueError(
                "--with_projector needs the file of a whole model, saved with model.save. "
                f"Received: --source={flags.source}, a folder; a run's backbone.keras has none."
            )
        if not source.is_file():
            raise ValueError(f"--source must be a finished run. Received: one without {source}")
    if target.is_file() and not flags.overwrite:
        raise ValueError(f"{target} exists. Pass --overwrite to replace it.")
    return source, target


def from_torch(source, target, flags):
    """Reads tensors, writes a Keras model and returns a description of what was converted."""
    from keras_bt import torch_weights
    from keras_bt.model import BarlowTwins
    from keras_bt.workdir import save_model

    state = torch_weights.read_state_dict(source)
    model = backbone = torch_weights.backbone_of(state, flags.drop_head)
    projector, note = None, ""
    if flags.with_projector:
        projector = torch_weights.projector_of(state)
        model = BarlowTwins(backbone, projector)
    elif any("projector." in name for name in state):
        note = "\nNot converted: the projector (it needs --with_projector)"
    if flags.drop_head:
        note += "\nNot converted: the classifier (because of --drop_head)"
    save_model(model, target)
    return described(backbone, projector) + note


def to_torch(source, target, flags):
    """Reads a Keras model, writes tensors and returns a description of what was converted."""
    from keras_bt import torch_weights
    from keras_bt.model import BarlowTwins
    from keras_bt.workdir import load_model

    model = load_model("--source", source)
    whole = isinstance(model, BarlowTwins)
    if flags.with_projector and not whole:
        raise ValueError(
            "--with_projector needs the file of a whole keras_bt.BarlowTwins. "
            f"Received: {source}, a {type(model).__name__} named {model.name}."
        )
    backbone = model.backbone if whole else model
    projector = model.projector if flags.with_projector else None
    torch_weights.write_state_dict(target, torch_weights.state_dict(backbone, projector))
    note = "\nNot converted: the projector (it needs --with_projector)"
    return described(backbone, projector) + (note if whole and projector is None else "")


def described(backbone, projector):
    """Describes, for the terminal, the network and how many numbers were converted."""
    from keras_bt import torch_weights
    from keras_bt.torch_weights import names as torch_names

    state = torch_names.tensors(torch_names.backbone_variables(backbone))
    kind = torch_weights.architecture(state)
    convolutions = sum(array.ndim == 4 for array in state.values())
    normalizations = sum(name.endswith("running_var") for name in state)
    text = (
        f"a ResNet-{kind['depth']} with the {kind['stem']} stem and width {kind['width']}, "
        f"{convolutions} convolutions and {normalizations} normalizations, "
        f"{sum(array.size for array in state.values()):,} numbers"
    )
    if projector is not None:
        widths = "-".join(str(layer.units) for layer in projector.layers if hasattr(layer, "units"))
        numbers = sum(math.prod(variable.shape) for variable in projector.weights)
        text += f"; a projector {widths}, {numbers:,} numbers"
    return text


def main():
    """Runs the command."""
    command.run(convert_torch, ConvertSettings, backends=("tensorflow",))


if __name__ == "__main__":
    main()
