"""`python -m edge_app` is `edge-app`."""

import sys

# `-m` puts the current folder first on the path, where a cv2.py or json.py of the user's would be run in place of ours.
if not sys.flags.safe_path and sys.path and sys.path[0] in ("", __import__("os").getcwd()):
    del sys.path[0]

from edge_app.cli import main

sys.exit(main())
