"""Which models there are, which build runs, bringing and checking new ones."""
