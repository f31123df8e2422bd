"""Exports a backbone as a SavedModel: python -m export.export_saved_model --backbone=RUN --out=DIR.

Each call adds a version, DIR/1, DIR/2, …, as TensorFlow Serving expects. A run's image size, data,
figures and the resizing of its evaluation are read from its folder.
"""

import dataclasses
import pathlib

from export import subject
from trainers.cli import command
from trainers.runs.fields import setting
from trainers.runs.settings import ReadingSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class SavedModelSettings(subject.ExportSettings, ReadingSettings):
    """The flags."""

    out: str | None = setting(
        None, "Folder of the SavedModel's versions. Default: saved_model/ beside the backbone."
    )


def export_saved_model(flags):
    """Writes a version and prints how to use it."""
    with command.mistakes:
        # Imported only once the flags are known to be right: TensorFlow takes seconds.
        with command.quiet_start():
            import tensorflow as tf

            from keras_bt import files, saved_model
            from trainers.runs import opening

        it = subject.read(flags)
        out = pathlib.Path(flags.out or it.file.parent / "saved_model")
        path = saved_model.export_saved_model(
            it.backbone,
            out,
            it.image_size,
            it.resize,
            *it.normalization,
            card=it.card,
            decoding=opening.decoding(flags, it.reading),
        )
        with files.read_by_tensorflow(path) as readable:
            print(description(path, tf.saved_model.load(readable).signatures))
        if files.has_wildcards(path):
            print(
                "  # TensorFlow reads no path with * ? [ or \\: copy the folder to another first."
            )


def description(path, signatures):
    """Says what was written, lists its signatures, and shows the lines that use it."""
    lines = [f"Written to {path}, with assets.extra/card.json, which describes it.", ""]
    for name in ("serve", "serve_jpeg", "infer"):
        if name not in signatures:  # serve_jpeg, where images do not have three channels
            continue
        inputs = signatures[name].structured_input_signature[1]
        outputs = signatures[name].structured_outputs
        default = "  (serving_default)" if name == "serve" else ""
        lines.append(f"  {name:12}{tensors(inputs)} → {tensors(outputs)}{default}")
    return "\n".join(
        [
            *lines,
            "",
            "  import tensorflow as tf",
            f'  backbone = tf.saved_model.load("{path}")',
            '  features = backbone.serve(images)["features"]',
        ]
    )


def tensors(specs):
    """Lists names, types and shapes of tensors, with "?" for a free dimension."""
    return ", ".join(
        f"{name} {spec.dtype.name} ({', '.join(str(n or '?') for n in spec.shape)})"
        for name, spec in specs.items()
    )


def main():
    """Runs the command."""
    command.run(export_saved_model, SavedModelSettings, backends=("tensorflow",))


if __name__ == "__main__":
    main()
