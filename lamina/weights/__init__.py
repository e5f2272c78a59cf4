"""Weight files: finding, reading and renaming them."""
