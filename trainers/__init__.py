"""Commands: `python -m trainers.NAME`, with absl flags."""
