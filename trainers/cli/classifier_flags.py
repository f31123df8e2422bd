"""Flags that the scripts which train a classifier share."""

from absl import flags

flags.DEFINE_float("min_area", 0.08, "Least part of an image that a crop takes.", 0, 1)
flags.DEFINE_float("flip", 0.5, "Probability of mirroring left to right.", 0, 1)
flags.DEFINE_enum("strategy", "auto", ["auto", "one", "mirrored", "tpu"], "Devices to train on.")
flags.DEFINE_bool(
    "deterministic",
    None,
    "Whether two runs with one seed agree to the last bit. Default: on CPUs, where all it costs is "
    "that image files are decoded one at a time.",
)
flags.DEFINE_integer("log_every", 10, "Steps between lines of metrics.jsonl.", lower_bound=1)
