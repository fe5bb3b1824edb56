"""What each command does in a line, so that `edge-app --help` opens none of their files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

SUMMARIES: Final[Mapping[str, str]] = {
    "tui": "open the terminal app: live picture, enrollment, people",
    "demo": "enroll the sample people and recognize them, and not a stranger, in a clip",
    "enroll": "learn a person or a thing from a couple of pictures, or a folder of them",
    "recognize": "say who, or what, is on pictures, in folders of pictures, in video files",
    "watch": "tell who comes and goes, without an interface: for services and scripts",
    "verify": "wait for one person, and ask for movements that a photo cannot make; answers by exit code",
    "pam": "files for a login by face beside the password",
    "cameras": "list the cameras with their formats and measured frame rate, and choose one",
    "gallery": "list, show, rename, forget, re-enroll and import people and things",
    "calibrate": "find out on your own pictures how alike strangers are, and set the thresholds by it",
    "models": "list, show, verify, add, use and pull models",
    "doctor": "check this machine: Python, processor, cameras, data folder, models",
    "bench": "measure each stage and the whole on this machine, beside other libraries where they are installed",
    "evaluate": "measure how well a folder of people is told apart, and what the enrollment gate refuses",
    "completion": "print the lines that let a shell complete commands, options and names",
    "fetch": "bring pictures from a stock service, a list of addresses or a folder, licences kept beside them",
    "sift": "keep of a pile of pictures those that pass every step: faces, classes, names, likeness, sharpness",
    "annotate": "label pictures by one key each: it asks about those that teach most, and tells when to stop",
    "train": "train a classifier or an embedder on a folder of pictures",
    "compose": "make labelled pictures of cut-outs, text and backgrounds",
    "generate": "make labelled pictures with a network that learned from a folder of them",
    "translate": "give the pictures of one folder the look of another's; labels and boxes stay",
    "export": "write ONNX models that were proven to agree with what they were made from",
}
"""Commands in the order of the help."""
