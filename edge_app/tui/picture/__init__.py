"""A picture drawn in a terminal."""
