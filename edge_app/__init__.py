"""Teach a laptop to recognize anyone from two pictures, offline, on its CPU."""

import os

# ONNX Runtime 1.31 tells mobile.events.data.microsoft.com of every session, and keeps a data base of events in
# ~/.cache/Microsoft, unless this is set before it is loaded; its disable_telemetry_events() comes too late for that
# (both seen with a proxy that listens). Nothing leaves this machine unasked.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__version__ = "0.2.0"
