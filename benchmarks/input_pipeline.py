"""Speed of making views, beside torchvision's transforms: `python -m benchmarks.input_pipeline`.

Both make the paper's two views, 224 × 224, of the same JPEG files of about 500 × 375, cut from the
two photographs that come with scikit-learn. All contestants take turns in one run, with as many
threads (tf.data) or worker processes (DataLoader) as there are cores. Nothing else should be
running on the machine. torchvision is optional; its wheel also works with PyTorch for CPUs:
`pip install --no-deps torchvision==VERSION`, with the version that matches PyTorch's.
"""

import functools
import itertools
import multiprocessing
import os
import pathlib
import random
import statistics
import sys
import tempfile
import time

import numpy as np
from absl import app, flags
from PIL import Image, ImageFilter, ImageOps

from benchmarks.report import aligned, available_cores, machine

# TensorFlow is imported inside functions: DataLoader's workers import this file without needing it.
PACKAGES = ("keras_bt", "keras", "keras-cv", "tensorflow", "pillow", "torch", "torchvision")
OPERATIONS = {  # each per source image, that is, for both of its views
    "decode": "Decode",
    "RandomResizedCrop": "Crops",
    "RandomFlip": "Flip",
    "RandomColorJitter": "Jitter",
    "RandomGrayscale": "Gray",
    "RandomGaussianBlur": "Blur",
    "RandomSolarize": "Solarize",
    "Normalize": "Normalize",
}
TORCHVISION = "torchvision, DataLoader"
_BLOCK = 8  # images per call of a layer, as in `pretraining_views`


def write_photographs(folder, number, seed=0):
    """Writes JPEG files of 500 × 375 or 375 × 500: crops of two photographs, all different.

    Args:
        folder: Folder to write to.
        number: Number of files.
        seed: Seed for the crops.

    Returns:
        Their paths, sorted.
    """
    from sklearn.datasets import load_sample_images

    originals = [Image.fromarray(image) for image in load_sample_images().images]
    generator = np.random.default_rng(seed)
    paths = []
    for i in range(number):
        photograph = originals[i % len(originals)]
        width, height = (500, 375) if generator.random() < 0.8 else (375, 500)
        # Crops are almost never enlarged, because that gives smooth images and small files.
        scale = min(photograph.width / width, photograph.height / height)
        scale *= generator.uniform(0.85, 1)
        left = generator.uniform(0, photograph.width - scale * width)
        top = generator.uniform(0, photograph.height - scale * height)
        box = (left, top, left + scale * width, top + scale * height)
        part = photograph.resize((width, height), Image.Resampling.BICUBIC, box)
        if generator.random() < 0.5:
            part = ImageOps.mirror(part)
        paths.append(pathlib.Path(folder) / f"{i:05}.jpg")
        part.save(paths[-1], quality=90)
    return paths


def keras_bt_batches(folder, image_size, batch_size, cores, **placement):
    """Returns an endless stream of batches of two views of the files in `folder`."""
    import tensorflow as tf

    from keras_bt import data
    from keras_bt.augmentations import barlow_twins_views

    # No cache: these few files stand for more than fits in memory.
    source, _ = data.open_source(f"folder:{folder}", cache_bytes=0)
    views = barlow_twins_views(image_size)
    batches = data.pretraining_views(source, *views, batch_size, seed=0, **placement)
    options = tf.data.Options()
    options.threading.private_threadpool_size = cores
    return batches.with_options(options)


def import_torchvision():
    """Imports torchvision's transforms, even if its compiled operators do not match PyTorch.

    PyPI has no torchvision for PyTorch without CUDA. Its operators then cannot be loaded, and the
    import fails where it registers more about two of them. The transforms use no operators, so it
    is enough to declare the two.
    """
    try:
        import torchvision.transforms
    except RuntimeError as error:
        if "does not exist" not in str(error):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        import torch

        for operator in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{operator}",
                "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
            )
        import torchvision.transforms
    return torchvision.transforms


def gaussian_blur(image):
    """Blurs with Pillow and a random σ, as in the published recipe."""
    return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


@functools.cache
def torchvision_operations(image_size):
    """Returns the published recipe: two lists of (name of our layer, torchvision's transform)."""
    transforms = import_torchvision()

    def operations(blur, solarize):
        jitter = transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)
        normalize = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        bicubic = transforms.InterpolationMode.BICUBIC
        sometimes = transforms.RandomApply
        return [
            ("RandomResizedCrop", transforms.RandomResizedCrop(image_size, interpolation=bicubic)),
            ("RandomFlip", transforms.RandomHorizontalFlip(0.5)),
            ("RandomColorJitter", sometimes([jitter], 0.8)),
            ("RandomGrayscale", transforms.RandomGrayscale(0.2)),
            ("RandomGaussianBlur", sometimes([gaussian_blur], blur)),
            ("RandomSolarize", sometimes([ImageOps.solarize], solarize)),
            ("Normalize", transforms.Compose([transforms.ToTensor(), normalize])),
        ]

    return operations(blur=1.0, solarize=0.0), operations(blur=0.1, solarize=0.2)


def decode_with_pillow(path):
    """Decodes a file as torchvision's ImageFolder does."""
    return Image.open(path).convert("RGB")


class PhotographPairs:
    """A PyTorch data set: item i is two views of file i.

    The transforms are made in the worker process, which has to import torchvision first.
    """

    def __init__(self, paths, image_size):
        self.paths, self.image_size = paths, image_size

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        photograph = decode_with_pillow(self.paths[i])
        views = []
        for operations in torchvision_operations(self.image_size):
            view = photograph
            for _, operation in operations:
                view = operation(view)
            views.append(view)
        return tuple(views)


def one_thread(worker):
    """Limits a worker process to one thread, as all workers together use all cores."""
    import torch

    torch.set_num_threads(1)
    random.seed(worker)  # PyTorch seeds itself


def torchvision_batches(paths, image_size, batch_size, cores, batches):
    """Returns a DataLoader of `batches` batches of two views, with one worker per core."""
    import torch

    pairs = PhotographPairs(paths, image_size)
    return torch.utils.data.DataLoader(
        pairs,
        batch_size,
        sampler=torch.utils.data.RandomSampler(pairs, num_samples=batches * batch_size),
        num_workers=cores,
        worker_init_fn=one_thread,
        # Not "fork", which would not copy this process's threads.
        multiprocessing_context="forkserver",
    )


def images_per_second(batches, batch_size, steps, cores):
    """Measures the throughput of batches in the steady state.

    Args:
        batches: Iterable of at least steps + 3 · cores batches.
        batch_size: Source images per batch.
        steps: Number of batches to measure, rounded up to a multiple of cores, because worker
            processes deliver that many at about the same time.
        cores: Number of threads or processes that make the batches.

    Returns:
        Source images per second, and CPU milliseconds per image.
    """
    steps = -(-steps // cores) * cores
    iterator = iter(batches)
    # The consumer always waits, so no buffered batches from before the measurement count in it.
    # The first batches include compilation.
    for _ in range(2 * cores):
        next(iterator)
    start, cpu_start = time.perf_counter(), cpu_seconds()
    for _ in range(steps):
        next(iterator)
    seconds, busy = time.perf_counter() - start, cpu_seconds() - cpu_start
    images = steps * batch_size
    return images / seconds, 1000 * busy / images


def cpu_seconds():
    """Returns the CPU time so far of this process and, on Linux, of its worker processes."""
    seconds = time.process_time()
    for worker in multiprocessing.active_children():
        stat = pathlib.Path(f"/proc/{worker.pid}/stat")
        if stat.exists():
            user, system = stat.read_text().rpartition(")")[2].split()[11:13]
            seconds += (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return seconds


def cpu_milliseconds(function, times):
    """Measures the CPU time of one call in milliseconds, over all threads of this process."""
    function()
    start = time.process_time()
    for _ in range(times):
        function()
    return 1000 * (time.process_time() - start) / times


def keras_bt_operations(folder, image_size, images, compiled):
    """Measures CPU ms per source image of each operation; decoding and crops only uncompiled.

    Every operation runs in tf.data on a single thread, on real images or crops.
    """
    import tensorflow as tf

    from keras_bt import data
    from keras_bt.augmentations import barlow_twins_views

    encoded, decoded = (
        data.open_source(f"folder:{folder}", cache_bytes=cache)[0].cached() for cache in (0, 2**30)
    )
    views = barlow_twins_views(image_size)

    def milliseconds(function, copies=1):
        options = tf.data.Options()
        options.threading.private_threadpool_size = 1
        options.threading.max_intra_op_parallelism = 1
        numbers = tf.data.Dataset.range(encoded.num_examples).repeat()
        iterator = iter(numbers.map(function).with_options(options))
        return cpu_milliseconds(lambda: next(iterator), -(-images // copies)) / copies

    def crops(i):
        image, seed = decoded.decode(i)[0], tf.stack([i, i])
        return [view.crop({"images": image, "seed": seed})["images"] for view in views]

    result = {}
    if not compiled:  # XLA supports neither decoding nor shapes that vary between images
        result["decode"] = milliseconds(lambda i: encoded.decode(i)[0])
        copying = milliseconds(lambda i: decoded.decode(i)[0])
        result["RandomResizedCrop"] = milliseconds(crops) - copying

    numbers = tf.range(_BLOCK, dtype=tf.int64) % encoded.num_examples
    block = tf.stack([crops(i)[0] for i in numbers])
    for layers in zip(*(view.rest.layers for view in views), strict=True):

        def both(i, layers=layers):
            inputs = {"images": block, "seed": tf.stack([i, i])}
            return [layer(inputs)["images"] for layer in layers]

        function = tf.function(both, jit_compile=True) if compiled else both
        result[type(layers[0]).__name__] = milliseconds(function, _BLOCK)
    return result


def torchvision_operations_times(paths, image_size, images):
    """Measures CPU milliseconds per source image of each of torchvision's operations."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    paths = list(itertools.islice(itertools.cycle(paths), images))
    photographs = [decode_with_pillow(path) for path in paths[:256]]
    milliseconds = cpu_milliseconds(lambda: [decode_with_pillow(path) for path in paths], 1)
    result = {"decode": milliseconds / len(paths)}
    for operations in torchvision_operations(image_size):
        views = photographs
        for name, operation in operations:
            # Each operation works on the views of the one before.
            start = time.process_time()
            views = [operation(view) for view in views]
            spent = 1000 * (time.process_time() - start) / len(views)
            result[name] = result.get(name, 0) + spent
    torch.set_num_threads(threads)
    return result


def contestants(folder, paths, image_size, batch_size, steps, cores):
    """Returns, by name, functions that start a stream of at least steps + 3 · cores batches."""
    ours = functools.partial(keras_bt_batches, folder, image_size, batch_size, cores)
    result = {
        "keras_bt, host, compiled": functools.partial(ours, compile_views=True),
        "keras_bt, host, plain": functools.partial(ours, compile_views=False),
        "keras_bt, device: the host's part": functools.partial(ours, augment_on="device"),
    }
    try:
        import_torchvision()
        result[TORCHVISION] = functools.partial(
            torchvision_batches, paths, image_size, batch_size, cores, steps + 4 * cores
        )
    except ImportError as error:
        print(f"torchvision is left out: {error}.")
    return result


def speed_table(rates, cpu):
    """Formats a row per contestant; `rates` in images per second and `cpu` in ms, a list each."""
    reference = statistics.median(rates[TORCHVISION]) if TORCHVISION in rates else None
    rows = []
    for name, values in rates.items():
        median = statistics.median(values)
        ratio = f"{median / reference:.2f}" if reference else "–"
        busy = f"{statistics.median(cpu[name]):.2f}"
        rows.append([name, *(f"{x:.0f}" for x in (median, min(values), max(values))), ratio, busy])
    header = ["", "images/s, median", "least", "greatest", "× torchvision", "CPU ms per image"]
    return aligned(header, rows)


def operations_table(columns):
    """Formats a row per operation; `columns` are dicts of milliseconds, by column title."""
    rows = [
        [title, *(f"{column[key]:.2f}" for column in columns.values())]
        for key, title in OPERATIONS.items()
    ]
    rows.append(["Sum", *(f"{sum(column.values()):.2f}" for column in columns.values())])
    return aligned(["CPU ms per image", *columns], rows)


def main(_):
    """Measures and prints."""
    import tensorflow as tf

    args = flags.FLAGS
    cores = args.cores or available_cores()
    print(machine(cores, PACKAGES))
    with tempfile.TemporaryDirectory() as folder, tf.device("CPU:0"):
        paths = write_photographs(folder, args.images)
        kilobytes = sum(path.stat().st_size for path in paths) / len(paths) / 1000
        print(f"{len(paths)} JPEG files of 500 × 375, {kilobytes:.0f} kB on average;", end=" ")
        size, steps = args.image_size, -(-args.images // args.batch_size)
        print(f"two views of {size} × {size} each, batches of {args.batch_size}\n")
        starts = contestants(folder, paths, size, args.batch_size, steps, cores)
        rates, cpu = ({name: [] for name in starts} for _ in range(2))
        for _ in range(args.rounds):
            for name, start in starts.items():
                rate, milliseconds = images_per_second(start(), args.batch_size, steps, cores)
                rates[name].append(rate)
                cpu[name].append(milliseconds)
        print(speed_table(rates, cpu), end="\n\n")
        plain, compiled = (keras_bt_operations(folder, size, args.images, c) for c in (False, True))
        columns = {"keras_bt, plain": plain, "keras_bt, compiled": plain | compiled}
        if TORCHVISION in starts:
            columns["torchvision"] = torchvision_operations_times(paths, size, args.images)
        print(operations_table(columns))


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # hides TensorFlow's start-up notes
    flags.DEFINE_integer("images", 400, "Files to write, and images per measurement.", 1)
    flags.DEFINE_integer("rounds", 3, "Measurements of each contestant.", 1)
    flags.DEFINE_integer("batch_size", 64, "Source images per batch.", 2)
    flags.DEFINE_integer("image_size", 224, "Side of the views, in pixels.", 1)
    flags.DEFINE_integer("cores", None, "Threads or worker processes. Default: one per core.", 1)
    app.run(main)
