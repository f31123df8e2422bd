"""What processors are, and which multiply in bfloat16."""

import pathlib
import platform
import re

CPUINFO = "/proc/cpuinfo"
# Instructions of x86 that oneDNN, TensorFlow's library for CPUs, multiplies bfloat16 with. Without
# them it converts to float32 and back, and is slower than in float32.
_INSTRUCTIONS = {"avx512_bf16", "amx_bf16"}
_FIRST_GPU = (8, 0)  # compute capability of Ampere, the first of NVIDIA's with bfloat16


def is_x86() -> bool:
    """Returns whether this machine's CPU is one of Intel's or AMD's, of 64 bits."""
    return platform.machine() in ("x86_64", "AMD64")


def cpu_has_bfloat16(cpuinfo: str = CPUINFO) -> bool:
    """Returns whether this machine's CPU multiplies in bfloat16, as far as Linux tells.

    Args:
        cpuinfo: the file in which Linux lists what the CPU can do.
    """
    if not is_x86():
        return False
    try:
        lines = pathlib.Path(cpuinfo).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return False
    flags = next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")
    return bool(_INSTRUCTIONS & set(flags.split()))


def gpu_has_bfloat16(compute_capability: tuple[int, int] | str | None) -> bool:
    """Returns whether a GPU of this compute capability multiplies in bfloat16.

    Args:
        compute_capability: NVIDIA's, (8, 0) or "8.0"; None or another text for other GPUs, of which
            nothing is known.
    """
    if isinstance(compute_capability, str):
        found = re.fullmatch(r"(\d+)\.(\d+)", compute_capability)
        compute_capability = (int(found[1]), int(found[2])) if found else None
    return compute_capability is not None and compute_capability >= _FIRST_GPU
