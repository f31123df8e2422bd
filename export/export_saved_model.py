"""Exports a backbone as a SavedModel: python -m export.export_saved_model --backbone=RUN --out=DIR.

Each call adds a version, DIR/1, DIR/2, …, as TensorFlow Serving expects. A run's image size, data
and figures are taken from its folder, and so is how evaluation resized its images.
"""

import json
import pathlib

from absl import flags

from trainers import command

FLAGS = flags.FLAGS

flags.DEFINE_string(
    "backbone", None, "What to export: the folder of a run of trainers.pretrain, or a .keras file."
)
flags.DEFINE_string(
    "out", None, "Folder of the versions. Default: saved_model/ beside the backbone."
)
flags.DEFINE_integer(
    "image_size",
    None,
    "Side of the images that the backbone sees. Default: the run's.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "resize",
    None,
    "Shorter side of an image before the centre is cut out. Default: as the run was evaluated; of "
    "a .keras file 256/224 of image_size.",
    lower_bound=1,
)
flags.DEFINE_string("data_dir", None, "Where the data sets of tfds lie.")


def main():
    """Writes a version and says how to use it."""
    with command.mistakes:
        # Imported when the flags are known to be right: TensorFlow takes seconds.
        with command.quiet_start():
            import tensorflow as tf

            from keras_bt import saved_model
            from trainers import backbones

        file, settings = backbones.find(FLAGS.backbone)
        image_size = FLAGS.image_size or settings.get("image_size")
        if not image_size:
            raise ValueError(f"--image_size is needed, as {file} does not belong to a run.")
        out = pathlib.Path(FLAGS.out or file.parent / "saved_model")
        backbone = backbones.load(file, image_size)
        resize = FLAGS.resize or resize_of_evaluation(settings, image_size)
        card = saved_model.run_card(settings, read_summary(file)) if settings else {}
        path = saved_model.export_saved_model(backbone, out, image_size, resize, card=card)
        print(description(path, tf.saved_model.load(path).signatures))


def resize_of_evaluation(settings, image_size):
    """Length of the shorter side that evaluation resizes the run's images to, None for its default.

    Raises:
        ValueError: the data, which it depends on, cannot be opened.
    """
    from keras_bt import data

    if "data" not in settings:
        return None
    try:
        source, _ = data.open_source(settings["data"], FLAGS.data_dir)
    except (ValueError, OSError) as error:
        raise ValueError(f"--resize is needed, as the data cannot be opened. {error}") from error
    return data.evaluation_resize(source, image_size)


def read_summary(file):
    """The final figures of the run that a backbone belongs to, {} if there are none."""
    summary = file.parent / "summary.json"
    return json.loads(summary.read_text()) if summary.is_file() else {}


def description(path, signatures):
    """What was written, its signatures, and the lines that use it."""
    lines = [f"Written to {path}, with assets.extra/card.json, which says what it is.", ""]
    for name in ("serve", "serve_jpeg", "infer"):
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
    """Names, types and shapes of tensors, "?" for a length that is free."""
    return ", ".join(
        f"{name} {spec.dtype.name} ({', '.join(str(n or '?') for n in spec.shape)})"
        for name, spec in specs.items()
    )


if __name__ == "__main__":
    command.run(main)
