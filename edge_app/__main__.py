"""`edge-app`, and `python -m edge_app`."""

from __future__ import annotations

import sys

# `-m` puts the current folder first on the path, where a cv2.py or json.py of the user's would be run in place of
# ours. Before anything else is imported; `os` is loaded already.
if __name__ == "__main__" and not sys.flags.safe_path and sys.path and sys.path[0] in ("", sys.modules["os"].getcwd()):
    del sys.path[0]

import os
import signal

_LIVE = "worker"
"""The name of the live loop's thread, in `edge_app.live.worker`."""

# Until the command line is loaded ctrl-C ends the process as it ends any other: there is nothing to tidy up, and
# Python would show a traceback.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start() -> None:
    """Run the command line and leave with its exit code."""
    from edge_app.cli import main

    code = main()
    threading = sys.modules.get("threading")
    if threading and any(thread.name == _LIVE for thread in threading.enumerate()):
        # It is inside a network, which may take seconds on a slow machine, and was waited for: Python's end would pull
        # the runtime from under it, and the process would abort instead of answering by its exit code.
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                continue
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    start()
