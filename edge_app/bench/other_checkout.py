"""Runs the live loop of another checkout of edge-app over the same frames: a script that `bench.identity` starts.

Arguments: the checkout's folder. Standard input: one JSON line (people to enroll as {name: [paths]}, fpir, margin,
precision, size), then for every frame a JSON line ({"time_s": ..} or {"reset": true}) and the frame's raw bytes.
Standard output: one JSON line a frame. It knows the layout of version 0.1.0 and the one since.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def _find(*places: str) -> Any:
    """The first of some `module:name` that exists in this checkout."""
    for place in places:
        module, name = place.split(":")
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            continue
    raise SystemExit(f"none of {', '.join(places)} exists in this checkout")


def _answer(what: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def _name(one: Any) -> str | None:
    name: str | None = one.match.name if hasattr(one, "match") else one.name
    return name


def main() -> int:
    """Answer every frame until standard input ends."""
    sys.path.insert(0, sys.argv[1])
    import numpy as np

    home_type = _find("edge_app.home:Home", "edge_app.system.data_folder:Home")
    settings_type = _find("edge_app.home:Settings", "edge_app.system.settings:Settings")
    open_workbench = _find("edge_app.assembly:open_workbench", "edge_app.recognition.open_session:open_people")
    gallery_type = _find("edge_app.gallery:Gallery", "edge_app.gallery.matching:Gallery")
    live_type = _find("edge_app.follow:LiveRecognizer", "edge_app.live.video_recognizer:LiveRecognizer")
    frame_type = _find("edge_app.domain:Frame", "edge_app.core.types:Frame")
    read_picture = _find("edge_app.pictures:read_picture", "edge_app.media.pictures:read_picture")

    source = sys.stdin.buffer
    asked = json.loads(source.readline())
    width, height = asked["size_px"]
    with tempfile.TemporaryDirectory(prefix="edge-app-other-") as folder:
        settings = settings_type(precision=asked["precision"], threads=asked["threads"])
        bench = open_workbench(home_type(Path(folder) / "home"), settings)
        names: list[str] = []
        vectors: list[Any] = []
        owner: list[int] = []
        for name, paths in asked["people"].items():
            shots = [bench.recognizer.shot(read_picture(Path(path)), path) for path in paths]
            found = [shot.embedding.vector for shot in shots if hasattr(shot, "embedding")]
            if found:
                vectors += found
                owner += [len(names)] * len(found)
                names.append(name)
        gallery = gallery_type(bench.recognizer.embedder.model_id, names, np.stack(vectors), np.array(owner))
        rule = gallery.rule(bench.points, asked["fpir"], asked["margin"])
        parts = bench.recognizer.with_gallery(gallery, rule)
        live = live_type(parts)
        _answer({"ready": len(names), "threshold": rule.threshold})
        while line := source.readline():
            told = json.loads(line)
            if told.get("reset"):
                live = live_type(parts)
                continue
            pixels = np.frombuffer(source.read(width * height * 3), np.uint8).reshape(height, width, 3)
            frame = frame_type(pixels, told["index"], told["time_s"])
            cpu_s = time.process_time()
            seen = live.observe(frame)
            cpu_ms = (time.process_time() - cpu_s) * 1e3
            said = [
                [[float(value) for value in one.face.box], _name(one), one.track or 0]
                for one in (seen.sightings if hasattr(seen, "sightings") else seen.findings)
            ]
            _answer({"cpu_ms": cpu_ms, "said": said})
    return 0


if __name__ == "__main__":
    sys.exit(main())
