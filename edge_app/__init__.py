"""Teach a laptop to recognize anyone from two pictures, offline, on its CPU."""

__version__ = "0.2.0"
