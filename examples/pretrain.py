"""Pretrains a backbone on a folder of images, with plain Keras.

    python examples/pretrain.py PHOTOS --epochs=100

Run again, it goes on where it stopped. In the end `backbone.keras` and `saved_model/1` are in OUT.
`trainers.pretrain` does all of this and measures, draws and logs as well.
"""

import argparse
import pathlib

import keras

import keras_bt
from keras_bt import augmentations, data
from keras_bt.callbacks.diagnostics import Diagnostics
from keras_bt.checkpoint import RunCheckpoint
from keras_bt.saved_model import export_saved_model


def main():
    """Trains, and writes the backbone."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="images, in subfolders or not; labels are not used")
    parser.add_argument("--out", default="pretrained", type=pathlib.Path)
    parser.add_argument("--epochs", default=100, type=int)
    parser.add_argument("--batch_size", default=128, type=int)
    parser.add_argument("--image_size", default=64, type=int)
    options = parser.parse_args()
    keras.utils.set_random_seed(0)

    # The images, and the two views of each: crops, flips, color changes, blur, solarization.
    train, _ = data.open_source(f"folder:{options.folder}")
    view_a, view_b = augmentations.barlow_twins_views(options.image_size, area=(0.3, 1.0))
    batch_size = min(options.batch_size, train.num_examples)
    steps_per_epoch = train.num_examples // batch_size

    # A ResNet-18 of half the usual width, and the projector that is only needed in training.
    backbone = keras_bt.resnet(18, stem="small", width=32)
    projector = keras_bt.projector((1024, 1024, 1024), input_dim=backbone.output_shape[-1])
    model = keras_bt.BarlowTwins(backbone, projector, redundancy_weight=2.6 / 1023)

    rate = keras_bt.warmup_cosine(
        peak=0.8 * batch_size / 256,
        steps=options.epochs * steps_per_epoch,
        warmup_steps=options.epochs * steps_per_epoch // 10,
    )
    model.compile(keras_bt.LARS(rate))

    # The batches are a function of the step, so a run that was stopped goes on exactly.
    checkpoint = RunCheckpoint(options.out / "checkpoints", model, steps_per_epoch)
    steps = checkpoint.restore()
    views = data.pretraining_views(train, view_a, view_b, batch_size, seed=0, first_step=steps)
    model.fit(
        views,
        initial_epoch=steps // steps_per_epoch,
        epochs=options.epochs,
        steps_per_epoch=steps_per_epoch,
        shuffle=False,  # they are shuffled already
        callbacks=[Diagnostics(next(iter(views))), checkpoint],
    )

    backbone.save(options.out / "backbone.keras")
    path = export_saved_model(backbone, options.out / "saved_model", options.image_size)
    print(f"{options.out / 'backbone.keras'} to fine-tune, {path} to serve")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:  # a mistake, said in one line
        raise SystemExit(f"error: {error}") from None
