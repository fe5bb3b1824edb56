"""One machine of a fleet in a process of its own: follows the server, does what its input says, tells what it holds.

`python -m tests.fleet.machine GALLERY`; input lines are `enroll NAME HUMAN NUMBER`, `rename OLD NEW`, `forget NAME`.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

from edge_app.fleet.follower import Follower
from edge_app.gallery.storage import Vault
from tests.fleet.fakes import shot_of


def main() -> None:
    path = Path(sys.argv[1])
    done = threading.Event()

    def say(kind, value):
        print(json.dumps([kind, value, time.time()]), flush=True)

    def watch():
        with Vault(path) as vault:
            before = None
            while not done.wait(0.02):
                now = vault.generation()
                if now != before:
                    before = now
                    say("names", list(vault.names()))

    with Follower(path, lambda line: say("told", line)):
        watcher = threading.Thread(target=watch)
        watcher.start()
        with Vault(path) as vault:
            for line in sys.stdin:
                word, name, *rest = line.split()
                if word == "enroll":
                    vault.add(name, [shot_of(int(rest[0]), int(rest[1]))])
                elif word == "rename":
                    vault.rename(name, rest[0])
                else:
                    vault.forget(name)
        done.set()
        watcher.join()


if __name__ == "__main__":
    main()
