"""Flags shared by the commands that train a classifier."""

from absl import flags

flags.DEFINE_float(
    "min_area", 0.08, "Smallest fraction of an image's area that a crop takes.", 0, 1
)
flags.DEFINE_float("flip", 0.5, "Probability of a horizontal flip.", 0, 1)
flags.DEFINE_enum(
    "strategy",
    "auto",
    ["auto", "one", "mirrored", "tpu"],
    "Devices to train on: one, all of this machine (mirrored), a TPU, or what is available (auto).",
)
flags.DEFINE_bool(
    "deterministic",
    None,
    "Make runs with the same seed agree bit for bit. Default: on CPUs only, where the sole cost is "
    "that image files are decoded one at a time.",
)
flags.DEFINE_integer("log_every", 10, "Steps between lines of metrics.jsonl.", lower_bound=1)
