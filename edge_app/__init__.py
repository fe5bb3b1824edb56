"""Teach a laptop to recognize anyone from two pictures, offline, on its CPU.

The nouns are in `edge_app.domain`, the parts are put together by `edge_app.assembly`. Nothing here imports torch.
"""

__version__ = "0.1.0"
