"""The measurements behind every claim about speed: python -m benchmarks.NAME."""
