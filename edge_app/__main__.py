"""`edge-app`, and `python -m edge_app`."""

from __future__ import annotations

import sys

# `-m` puts the current folder first on the path, where a cv2.py or json.py of the user's would be run in place of
# ours. Before anything else is imported; `os` is loaded already.
if __name__ == "__main__" and not sys.flags.safe_path and sys.path and sys.path[0] in ("", sys.modules["os"].getcwd()):
    del sys.path[0]

import signal

# Until the command line is loaded ctrl-C ends the process as it ends any other: there is nothing to tidy up, and
# Python would show a traceback.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start() -> None:
    """Run the command line and leave with its exit code."""
    from edge_app.cli import main

    sys.exit(main())


if __name__ == "__main__":
    start()
