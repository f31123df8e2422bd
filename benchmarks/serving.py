"""How fast is a backbone in each form that it can be exported to? `python -m benchmarks.serving`.

`serve` and `serve_jpeg` get photographs of 500 × 375, as pixels and as JPEG files, and do all the
rest; the other forms get preprocessed images. All start from NumPy arrays or bytes and end with an
array, use all cores, and take turns. The table also shows how far the features are from those of
the Keras model. Nothing else should be running on the machine.

PyTorch (`benchmarks.torch_barlow_twins`, with the same weights) and the runtimes of ONNX and LiteRT
are measured where they are installed.
"""

import dataclasses
import functools
import itertools
import pathlib
import tempfile
import time

import numpy as np

from benchmarks.input_pipeline import decode_with_pillow, write_photographs
from benchmarks.report import aligned, available_cores, machine, spread
from benchmarks.turns import in_turns
from trainers.cli import command
from trainers.runs.fields import Settings, setting

PACKAGES = ("keras_bt", "keras", "tensorflow", "torch", "onnxruntime", "ai-edge-litert")
KERAS = "model.predict"
_PHOTOGRAPHS = 8  # distinct ones; larger batches repeat them


def new_backbone(name, stem, width, image_size):
    """Builds a ResNet, or loads a model from a .keras file."""
    import keras

    from trainers.runs import backbones

    keras.utils.set_random_seed(0)
    backbone = backbones.build(name, stem, width, image_size)
    if not name.endswith(".keras"):
        backbones.switch_blocks_on(backbone)  # else the features would hardly depend on them
    return backbone


def inputs(folder, image_size):
    """Makes the inputs: files, pixels and preprocessed images, as NumPy arrays."""
    from keras_bt.preprocessing import center_crop, normalize

    files, pixels = [], []
    for path in write_photographs(folder, 4 * _PHOTOGRAPHS):
        image = np.asarray(decode_with_pillow(path))
        if image.shape == (375, 500, 3) and len(files) < _PHOTOGRAPHS:  # one shape makes a batch
            files.append(path.read_bytes())
            pixels.append(image)
    floats = normalize(center_crop(np.stack(pixels), image_size)).numpy()
    return {"files": np.array(files, object), "uint8": np.stack(pixels), "float32": floats}


def saved_model_forms(backbone, folder, image_size):
    """Returns the forms of TensorFlow and Keras: name → (kind of input, function to features)."""
    import tensorflow as tf

    from keras_bt.saved_model import export_saved_model

    loaded = tf.saved_model.load(export_saved_model(backbone, folder / "saved_model", image_size))

    def call(name, argument, x):
        # The signature, which TensorFlow Serving calls too, is never retraced.
        return loaded.signatures[name](**{argument: tf.constant(x)})["features"].numpy()

    def predict(x):
        return backbone.predict(x, batch_size=len(x), verbose=0)

    return {
        KERAS: ("float32", predict),
        "SavedModel, infer": ("float32", functools.partial(call, "infer", "images")),
        "SavedModel, serve": ("uint8", functools.partial(call, "serve", "images")),
        "SavedModel, serve_jpeg": ("files", functools.partial(call, "serve_jpeg", "encoded")),
    }


def torch_forms(backbone):
    """Returns PyTorch with the weights of a `keras_bt.resnet`, in both of its memory formats."""
    import torch

    from benchmarks.torch_barlow_twins import resnet_of
    from keras_bt.torch_weights import state_dict

    device = "cuda" if torch.cuda.is_available() else "cpu"

    def form(layout):
        state = {name: torch.tensor(array) for name, array in state_dict(backbone).items()}
        model = resnet_of(state).to(device, memory_format=layout)

        def call(x):
            images = torch.from_numpy(np.moveaxis(x, -1, 1)).to(device)
            with torch.inference_mode():
                return model(images.contiguous(memory_format=layout)).cpu().numpy()

        return "float32", call

    return {
        f"PyTorch, {device}": form(torch.contiguous_format),
        f"PyTorch, {device}, channels last": form(torch.channels_last),
    }


def onnx_form(path, cores):
    """Returns a function that runs an ONNX file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["features"], {"images": images})[0]


def litert_form(path, cores):
    """Returns a function that runs a LiteRT file."""
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(str(path), num_threads=cores).get_signature_runner()
    return lambda images: run(images=images)["features"]


def portable_forms(backbone, folder, image_size, cores, name, ending, start):
    """Exports a format's two endpoints and returns functions that run them."""
    from keras_bt.portable import export_portable

    found = {}
    for endpoint, kind in (("infer", "float32"), ("serve", "uint8")):
        path = folder / f"{endpoint}{ending}"
        export_portable(backbone, path, image_size, endpoint=endpoint)
        found[f"{name}, {endpoint}"] = (kind, start(path, cores))
    return found


def contestants(backbone, folder, image_size, cores):
    """Returns name → (kind of input, function); prints what is left out and why."""
    found = saved_model_forms(backbone, folder, image_size)
    portable = functools.partial(portable_forms, backbone, folder, image_size, cores)
    for name, forms in (
        ("ONNX", functools.partial(portable, "ONNX", ".onnx", onnx_form)),
        ("LiteRT", functools.partial(portable, "LiteRT", ".tflite", litert_form)),
        ("PyTorch", functools.partial(torch_forms, backbone)),
    ):
        try:
            found |= forms()
        except (ImportError, ValueError) as error:  # not installed, or not for this backbone
            print(f"{name} is left out: {' '.join(str(error).split())}")
    return found


def images_per_second(function, batch, seconds):
    """Measures images per second by calling a function for `seconds`, at least once."""
    start = time.perf_counter()
    for calls in itertools.count(1):
        function(batch)
        spent = time.perf_counter() - start
        if spent >= seconds:
            return calls * len(batch) / spent


def differences(forms, data):
    """Returns, by name, the largest relative L2 distance to the Keras model's features."""
    found = {name: function(data[kind]) for name, (kind, function) in forms.items()}
    right = found[KERAS]
    length = np.linalg.norm(right, axis=1)
    return {
        name: float((np.linalg.norm(features - right, axis=1) / length).max())
        for name, features in found.items()
    }


def measure(forms, data, batch_sizes, rounds, seconds):
    """Measures in turns; returns (name, batch size) → a list of images per second."""
    speeds = {}
    for size in batch_sizes:
        # A batch that is larger repeats the images.
        batches = {kind: x[np.arange(size) % len(x)] for kind, x in data.items()}

        def turns(seconds, size=size, batches=batches):
            return {
                (name, size): functools.partial(images_per_second, call, batches[kind], seconds)
                for name, (kind, call) in forms.items()
            }

        in_turns(turns(seconds=0), 1)  # the first calls compile and allocate
        speeds |= in_turns(turns(seconds), rounds)
    return speeds


def speed_table(forms, speeds, distances, batch_sizes):
    """Formats a row per form: its input, the median (min–max) per batch size, the distance."""
    taken = {"files": "JPEG files", "uint8": "pixels", "float32": "preprocessed"}

    def cell(values):
        return spread(values, digits=1 if max(values) < 100 else 0)

    rows = [
        [
            name,
            taken[kind],
            *(cell(speeds[name, size]) for size in batch_sizes),
            f"{distances[name]:.0e}",
        ]
        for name, (kind, _) in forms.items()
    ]
    sizes = [f"batch of {size}" for size in batch_sizes]
    return aligned(["images/s", "takes", *sizes, "features differ by"], rows)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServingSettings(Settings):
    """The flags."""

    backbone: str = setting("resnet50", "A new resnet18 to resnet152, or a .keras file.")
    stem: str = setting("imagenet", "Stem of a new ResNet.", choices=("imagenet", "small"))
    width: int = setting(64, "Width of a new ResNet.", least=1, most=4096)
    image_size: int = setting(224, "Side of the backbone's images, in pixels.", least=1, most=4096)
    batch_sizes: tuple[int, ...] = setting((1, 8, 32, 128), "Images per call.", least=1, most=2**20)
    rounds: int = setting(3, "Measurements of each form and batch size.", least=1)
    seconds: float = setting(1.0, "Minimum duration of a measurement, in seconds.", least=0)


def print_measured(args):
    """Measures and prints."""
    with command.quiet_start():
        import tensorflow as tf

    cores = available_cores()
    gpus = len(tf.config.list_physical_devices("GPU"))
    print(f"{machine(cores, PACKAGES)}, {gpus} GPUs", flush=True)
    size = args.image_size
    with command.mistakes:
        backbone = new_backbone(args.backbone, args.stem, args.width, size)
    print(
        f"{backbone.name}, {backbone.count_params() / 1e6:.1f} million parameters, {size} × {size} "
        f"pixels; {args.rounds} measurements of at least {args.seconds:g} s: median (min–max)"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        forms = contestants(backbone, folder, size, cores)
        data = inputs(folder, size)
        speeds = measure(forms, data, args.batch_sizes, args.rounds, args.seconds)
        print()
        print(speed_table(forms, speeds, differences(forms, data), args.batch_sizes))


def main():
    """Runs the command."""
    command.run(print_measured, ServingSettings)


if __name__ == "__main__":
    main()
