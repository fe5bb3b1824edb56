"""Small video files of every container, made by ffmpeg, and ffprobe's word on them; both skip where it is absent."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CODECS = {".mp4": "libx264", ".mkv": "libx264", ".ts": "libx264", ".flv": "libx264", ".webm": "libvpx"}
CODECS |= {".mpg": "mpeg2video", ".avi": "mjpeg", ".mov": "libx264", ".wmv": "wmv2", ".ogv": "libtheora"}
SOUNDS = {".webm": "libopus", ".mpg": "mp2", ".avi": "pcm_s16le", ".wmv": "wmav2", ".ogv": "libvorbis"}

STAMPS = {
    "even": None,
    "gap": "if(lt(N,25),N/25/TB,(30+(N-25)/25)/TB)",  # a second, 29 s of nothing, a second
    "slowing": "if(lt(N,25),N/25/TB,(N-24)/TB)",  # 25 a second, then one a second
    "repeated": "floor(N/2)*2/25/TB",
    "late": "(N/25+1.5)/TB",
}


def ffmpeg(*arguments: str | Path, program: str = "ffmpeg") -> bytes:
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}: apt-get install ffmpeg")
    done = subprocess.run([program, "-v", "error", *arguments], capture_output=True, check=False)
    if done.returncode and b"Unknown encoder" in done.stderr:
        pytest.skip(f"this {program} lacks an encoder: {done.stderr.decode().strip()}")
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def clip(path: Path, stamps: str = "even", *, sound_s: float = 0, more: tuple[str, ...] = ()) -> Path:
    """Two seconds of a picture that changes with every frame, 96 x 64, with time stamps of that kind, and sound."""
    inputs = ["-f", "lavfi", "-i", "testsrc=size=96x64:rate=25:duration=2"]
    inputs += ["-f", "lavfi", "-t", str(sound_s), "-i", "sine"] if sound_s else []
    spread = ["-vf", f"setpts='{STAMPS[stamps]}'"] if STAMPS[stamps] else []
    encode = ["-c:v", CODECS[path.suffix], "-pix_fmt", "yuvj420p" if path.suffix == ".avi" else "yuv420p"]
    if stamps == "repeated" and path.suffix in (".mp4", ".mkv", ".ts", ".flv"):
        encode += ["-bf", "0"]
    encode += ["-c:a", SOUNDS.get(path.suffix, "aac")]
    ffmpeg(*inputs, *spread, "-vsync", "passthrough", *encode, *more, "-y", path)
    return path


def stamps_of(path: Path) -> list[float]:
    """The time of every frame as ffprobe tells it, from the start of the picture."""
    wanted = "frame=best_effort_timestamp_time,pts_time:stream=start_time"
    told = ffmpeg("-select_streams", "v:0", "-show_entries", wanted, "-of", "json", f"file:{path}", program="ffprobe")
    found = json.loads(told)
    start_s = float(found["streams"][0]["start_time"])
    return [float(frame.get("best_effort_timestamp_time") or frame["pts_time"]) - start_s for frame in found["frames"]]


def streams_of(path: Path, what: str) -> dict[str, float]:
    """A number that ffprobe tells of the video and of the audio stream."""
    told = ffmpeg("-show_entries", f"stream=codec_type,{what}", "-of", "csv=p=0", path, program="ffprobe").decode()
    return {kind: float(value) for kind, value in re.findall(r"(\w+),([\d.]+)", told)}


def length_s(path: Path) -> float:
    """Of the whole file, by ffprobe."""
    return float(ffmpeg("-show_entries", "format=duration", "-of", "csv=p=0", path, program="ffprobe"))
