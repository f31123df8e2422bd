"""Commands that export and convert backbones (absl flags)."""
