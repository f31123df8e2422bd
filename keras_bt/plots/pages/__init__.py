"""Pages of a single HTML file each, which work offline and ask no network for anything."""
