"""Command-line scripts (absl flags)."""
