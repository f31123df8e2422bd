"""Exports a backbone to ONNX or LiteRT: python -m export.export_portable --backbone=RUN --target=F.

The target's ending chooses the format:

    --target=backbone.onnx      pip install "keras_bt[onnx]", for anything that reads ONNX
    --target=backbone.tflite    pip install "keras_bt[litert]", for phones and small devices

By default the file takes uint8 RGB images of any size and preprocesses them as evaluation does.
With --endpoint=infer it takes float32 images that the client has preprocessed, with the numbers in
TARGET.json beside it; this suits accelerators that need fixed sizes. A run's image size, data,
figures and the resizing of its evaluation are read from its folder.
"""

import dataclasses
import pathlib

from export import subject
from trainers.cli import command
from trainers.runs.fields import setting


@dataclasses.dataclass(frozen=True, kw_only=True)
class PortableSettings(subject.ExportSettings):
    """The flags."""

    target: str | None = setting(None, "File to write, .onnx or .tflite.")
    endpoint: str = setting(
        "serve",
        "Input of the exported file. serve: uint8 images of any size. infer: float32 images, "
        "preprocessed by the client.",
        choices=("serve", "infer"),
    )
    overwrite: bool = setting(False, "Replace the target and its card if they exist.")


def export_portable(flags):
    """Writes the file and prints how to use it."""
    with command.mistakes:
        if not flags.target:
            raise ValueError("--target is needed: the file to write, .onnx or .tflite.")
        target = pathlib.Path(flags.target)
        # Imported only once the flags are known to be right: TensorFlow takes seconds.
        with command.quiet_start():
            from keras_bt import messages, portable
            from keras_bt.portable import formats as portable_formats

        portable_formats.format_of(target).check_installed()
        for path in (target, portable.card_path(target)):
            messages.check_writable("--target", path)
            if path.exists() and not flags.overwrite:
                raise ValueError(f"{path} exists. Pass --overwrite to replace it.")
        it = subject.read(flags)
        portable.export_portable(
            it.backbone,
            target,
            it.image_size,
            it.resize,
            *it.normalization,
            endpoint=flags.endpoint,
            card=it.card,
        )
        print(description(target))


def description(target):
    """Says what was written, and shows the lines that use it."""
    lines = {
        ".onnx": [
            "import onnxruntime",
            f'session = onnxruntime.InferenceSession("{target}")',
            '(features,) = session.run(["features"], {"images": images})',
        ],
        ".tflite": [
            "from ai_edge_litert.interpreter import Interpreter",
            f'backbone = Interpreter("{target}").get_signature_runner()',
            'features = backbone(images=images)["features"]',
        ],
    }[target.suffix]
    return "\n".join(
        [
            f"Written to {target}, with {target.name}.json, which describes it.",
            "Its features equal those of the SavedModel on random images.",
            "",
            *(f"  {line}" for line in lines),
        ]
    )


def main():
    """Runs the command."""
    command.run(export_portable, PortableSettings, backends=("tensorflow",))


if __name__ == "__main__":
    main()
