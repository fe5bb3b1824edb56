"""Makes what the check on a machine with a camera needs: a gallery with one man, and a clip of him."""

import sys
from pathlib import Path

import cv2
import numpy as np

from edge_app.cli import main
from edge_app.media import sample
from edge_app.media.pictures import read_picture
from edge_app.media.video_writer import VideoWriter
from edge_app.system.data_folder import Home

work = Path(sys.argv[1])
name = "Barack Obama"
# One thread, no measuring, and whole numbers: emulated threads that wait for each other, and floats, cost minutes.
Home(work / "home").change_settings(precision="int8", threads=1)
assert main(["enroll", name, *map(str, sample.people()[name]), "--home", str(work / "home")]) == 0
[probe] = sample.probes()[name]
picture = read_picture(probe)
scale = 180 / picture.shape[0]
small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
noise = np.random.default_rng(1)
with VideoWriter(work / "clip.mp4", (320, 180), 1) as writer:
    for index in range(10):
        frame = np.full((180, 320, 3), 110, np.uint8)
        at = 60 + index % 5
        frame[:, at : at + small.shape[1]] = small[:, : 320 - at]
        writer.write(np.clip(frame + noise.integers(-3, 4, frame.shape), 0, 255).astype(np.uint8))
