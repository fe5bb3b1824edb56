"""Whole videos are whole, cut ones are told, and every frame has the time that ffprobe gives it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_app.core.errors import MediaError
from edge_app.media.container import has_sound, missing_bytes, promised_frames
from edge_app.media.sources import frames, open_source
from edge_app.media.video_writer import VideoWriter
from tests.media.clips import CODECS, clip, ffmpeg, length_s, stamps_of, streams_of

KINDS = [(suffix, "even") for suffix in CODECS]
KINDS += [(suffix, "gap") for suffix in (".mp4", ".mkv", ".ts", ".flv", ".webm")]
KINDS += [(suffix, "slowing") for suffix in (".mp4", ".mkv", ".ts", ".flv", ".webm")]
KINDS += [(suffix, "repeated") for suffix in (".mp4", ".mkv", ".ts", ".flv", ".webm")]
KINDS += [(suffix, "late") for suffix in (".mp4", ".mkv")]


@pytest.mark.parametrize(("suffix", "stamps"), KINDS)
def test_a_whole_file_is_whole_and_its_times_are_ffprobes(tmp_path, suffix, stamps):
    path = clip(tmp_path / f"a{suffix}", stamps)
    times_s = [frame.time_s for frame in frames(str(path))]
    expected = stamps_of(path)
    assert len(times_s) == len(expected) == 50
    np.testing.assert_allclose(times_s, expected, atol=0.02)  # half a frame of 25 a second


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".flv", ".webm", ".mpg", ".avi"])
def test_sound_may_go_on_after_the_picture(tmp_path, suffix):
    path = clip(tmp_path / f"a{suffix}", sound_s=12)
    times_s = [frame.time_s for frame in frames(str(path))]
    expected = stamps_of(path)
    assert len(times_s) == len(expected) >= 50
    np.testing.assert_allclose(times_s, expected, atol=0.02)


@pytest.mark.slow
def test_pictures_come_back_after_minutes_of_sound_alone(tmp_path):
    """OpenCV gives a file up after 4,096 packets without a picture: 95 s of AAC."""
    path = clip(tmp_path / "a.mkv", "gap", sound_s=0)
    late = tmp_path / "b.mkv"
    spread = "if(lt(N,25),N/25/TB,(200+(N-25)/25)/TB)"
    ffmpeg(
        "-i", path, "-f", "lavfi", "-t", "202", "-i", "sine", "-vf", f"setpts='{spread}'", "-vsync", "passthrough", late
    )
    assert [round(frame.time_s) for frame in frames(str(late))][-1] == 201


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".flv", ".webm", ".mpg", ".avi", ".wmv", ".ogv"])
@pytest.mark.parametrize("stamps", ["even", "gap"])
def test_a_file_that_was_cut_is_told_wherever_the_cut_is(tmp_path, suffix, stamps):
    if stamps == "gap" and suffix in (".mpg", ".avi", ".wmv", ".ogv"):
        pytest.skip("this container has no gaps")
    whole = clip(tmp_path / f"whole{suffix}", stamps)
    data = whole.read_bytes()
    assert missing_bytes(whole) == 0
    cuts = [at for at in np.linspace(len(data) // 4, len(data) - 1, 40).astype(int) if suffix != ".ts" or at % 188]
    (path := tmp_path / f"cut{suffix}").touch()
    told = []
    for at in cuts:
        path.write_bytes(data[:at])
        told.append(missing_bytes(path) > 0)
    assert told == [True] * len(cuts)
    with pytest.raises(MediaError, match=r"cut short|damaged"):
        list(frames(str(path)))


def test_a_file_from_ffmpeg_cut_between_two_packets_is_told(tmp_path):
    path = tmp_path / "a.ts"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=640x480:duration=1", "-c:v", "libx264", path)
    data = path.read_bytes()
    assert missing_bytes(path) == 0
    told = 0
    for packets in range(len(data) // 188 // 2, len(data) // 188 - 1, 7):
        path.write_bytes(data[: packets * 188])
        told += missing_bytes(path)
    # What is cut between two pictures is whole.
    assert told / len(range(len(data) // 188 // 2, len(data) // 188 - 1, 7)) > 0.8


def test_what_a_phone_writes_behind_the_last_box_is_no_cut(tmp_path):
    path = clip(tmp_path / "a.mp4")
    with path.open("ab") as file:
        file.write(b"\0\0\0\x05SEFH" + bytes(100))
    assert missing_bytes(path) == 0
    assert len(list(frames(str(path)))) == 50


def test_an_mp4_promises_its_frames_unless_an_edit_list_leaves_some_out(tmp_path):
    path = clip(tmp_path / "a.mp4", more=("-sc_threshold", "0"))
    assert promised_frames(path) == 50
    ffmpeg("-ss", "1.1", "-i", path, "-c", "copy", tmp_path / "trimmed.mp4")
    assert promised_frames(tmp_path / "trimmed.mp4") is None
    assert 15 < len(list(frames(str(tmp_path / "trimmed.mp4")))) < 30
    assert promised_frames(clip(tmp_path / "a.mkv")) is None


def test_an_mp4_whose_pictures_are_damaged_is_told(tmp_path):
    path = clip(tmp_path / "a.mp4", more=("-g", "5", "-bf", "0"))
    data = bytearray(path.read_bytes())
    start, size = data.index(b"mdat") + 2000, data.index(b"moov") - data.index(b"mdat")
    data[start : start + size // 2] = bytes(size // 2)
    path.write_bytes(data)
    with pytest.raises(MediaError, match=r"ended after \d+ frames; expected 50 frames; the file is damaged"):
        list(frames(str(path)))


@pytest.mark.parametrize(
    ("suffix", "told"), [(".mp4", True), (".mkv", True), (".avi", True), (".flv", True), (".webm", True), (".ts", None)]
)
def test_sound_is_seen_in_the_container(tmp_path, suffix, told):
    assert has_sound(clip(tmp_path / f"with{suffix}", sound_s=2)) is told
    assert not has_sound(clip(tmp_path / f"without{suffix}"))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".flv", ".mpg", ".ogv", ".ts", ".avi", ".wmv"])
def test_a_container_with_any_bytes_overwritten_is_read_in_no_time(tmp_path, suffix):
    data = clip(tmp_path / f"a{suffix}", sound_s=2).read_bytes()
    noise = np.random.default_rng(1)
    path = tmp_path / f"b{suffix}"
    found = []
    for _ in range(60):
        damaged = np.frombuffer(data, np.uint8).copy()
        at = noise.integers(8, min(len(data), 4096) if noise.integers(2) else len(data), 8)
        damaged[at] = noise.integers(0, 256, 8)
        path.write_bytes(damaged.tobytes())
        found.append((missing_bytes(path), has_sound(path), promised_frames(path)))
    assert all(missing >= 0 for missing, _, _ in found)


def tape(path: Path) -> Path:
    """A second of interlaced video, as camcorders record it: a bright bar that moves to the right over grey."""
    bar = "color=white:size=12x64:rate=50:duration=1[bar]"
    moving = f"color=gray:size=96x64:rate=50:duration=1[behind];{bar};[behind][bar]overlay=x=n"
    weave = "tinterlace=interleave_top,fieldorder=tff"
    made = ("-vf", weave, "-flags", "+ilme+ildct", "-c:v", "mpeg2video", "-pix_fmt", "yuv420p")
    ffmpeg("-f", "lavfi", "-i", moving, *made, path)
    return path


def test_interlaced_pictures_are_read(tmp_path):
    """OpenCV 5.0 does not turn them into RGB and says that it did."""
    got = list(frames(str(tape(tmp_path / "tape.ts"))))
    np.testing.assert_allclose([frame.time_s for frame in got], np.arange(25) / 25, atol=1e-3)
    assert {frame.size_px for frame in got} == {(96, 64)}
    bars = [int(np.flatnonzero(frame.pixels[32, :, 0] > 200).mean()) for frame in got]
    np.testing.assert_allclose(np.diff(bars), 2, atol=1)


def test_a_reader_of_interlaced_pictures_can_stop_early(tmp_path):
    with open_source(str(tape(tmp_path / "tape.ts"))) as source:
        assert source.read().size_px == (96, 64)


def test_without_ffmpeg_pictures_that_are_all_the_same_are_told(tmp_path, monkeypatch):
    path = tape(tmp_path / "tape.ts")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(MediaError, match=r"all 25 frames of .* came out the same; if it moves, it is an interlaced"):
        list(frames(str(path)))


def test_a_still_shown_as_a_video_is_whole(tmp_path):
    path = tmp_path / "still.mp4"
    ffmpeg("-f", "lavfi", "-i", "color=gray:size=96x64:duration=1", "-c:v", "libx264", path)
    assert len(list(frames(str(path)))) == 25


HUGE = """
import re, sys
from pathlib import Path
from edge_app.media.sources import open_source
def peak_mib():
    return int(re.search(r"VmHWM:\\\\s+(\\\\d+)", Path("/proc/self/status").read_text()).group(1)) / 1024
before = peak_mib()
try:
    open_source(sys.argv[1])
except Exception as error:
    print(peak_mib() - before, error)
""".replace("\\\\", "\\")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/status is Linux")
@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "libx264"), (".mkv", "libx264"), (".avi", "mjpeg")])
def test_pictures_of_100_megapixels_are_refused_before_they_cost_a_gigabyte(tmp_path, suffix, codec):
    path = tmp_path / f"a{suffix}"
    speed = ("-preset", "ultrafast") if codec == "libx264" else ()
    ffmpeg("-f", "lavfi", "-i", "color=gray:size=10000x10000", "-frames:v", "2", "-c:v", codec, *speed, path)
    done = subprocess.run([sys.executable, "-c", HUGE, path], capture_output=True, text=True, check=True)
    mib, _, told = done.stdout.partition(" ")
    assert "has pictures of 10000 x 10000 px; expected at most 67 megapixels" in told
    assert float(mib) < 600


# Names


ODD = [
    b"10:30:00.mp4",
    b"cam-2024-05-01T10:30:00.mp4",
    b"caf\xe9.mp4",
    b"-x.mp4",
    b" lead.mp4",
    b"~t.mp4",
    b"a%02d.jpg",
]
ODD += [b"a\nb.mp4", b"plain", b"concat:a.mp4", b"\xff\xfe"]


def written(path: Path, count: int = 5) -> Path:
    with VideoWriter(path, (64, 48), 10) as writer:
        for index in range(count):
            writer.write(np.full((48, 64, 3), 50 + 20 * index, np.uint8))
    return path


@pytest.mark.skipif(os.name != "posix", reason="other systems refuse such names")
@pytest.mark.parametrize("name", ODD)
def test_a_video_of_any_name_is_read(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "made.mp4").rename(os.fsdecode(name))
    assert len(list(frames(os.fsdecode(name)))) == 5
    assert len(list(frames(str(tmp_path / os.fsdecode(name))))) == 5


@pytest.mark.skipif(os.name != "posix", reason="other systems refuse such names")
@pytest.mark.parametrize("name", [n for n in ODD if n.endswith(b".mp4") and b"\n" not in n])
@pytest.mark.parametrize("folder", [b"", b"caf\xe9", b"a:b"])
def test_a_video_of_any_name_is_written(tmp_path, monkeypatch, name, folder):
    monkeypatch.chdir(tmp_path)
    Path(os.fsdecode(folder)).mkdir(exist_ok=True)
    path = written(Path(os.fsdecode(folder), os.fsdecode(name)))
    assert [entry for entry in path.parent.iterdir() if not entry.is_dir()] == [path]
    assert len(list(frames(str(path)))) == 5


def test_a_playlist_called_a_video_opens_nothing(tmp_path):
    secret = written(tmp_path / "secret.mp4")
    for text in (f"#EXTM3U\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n", f"ffconcat version 1.0\nfile {secret}\n"):
        (tmp_path / "a.mp4").write_text(text)
        with pytest.raises(MediaError, match="is not a video"):
            open_source(str(tmp_path / "a.mp4"))


# Copies


TIMES_S = [0.0, 0.04, 0.08, 5.0, 5.04, 5.04, 6.0]


def copy(path: Path, sound_of: Path | None) -> str:
    writer = VideoWriter(path, (96, 64), 25, sound_of=sound_of)
    for index, time_s in enumerate(TIMES_S):
        writer.write(np.full((64, 96, 3), 30 * index, np.uint8), time_s)
    writer.close()
    return writer.note


def test_a_copy_shows_its_pictures_at_their_times(tmp_path):
    assert copy(tmp_path / "a.mp4", None) == ""
    np.testing.assert_allclose(stamps_of(tmp_path / "a.mp4"), TIMES_S, atol=2e-3)
    got = list(frames(str(tmp_path / "a.mp4")))
    assert [round(frame.pixels.mean() / 30) for frame in got] == list(range(7))
    assert length_s(tmp_path / "a.mp4") == pytest.approx(6.04, abs=2e-3)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".avi", ".webm", ".flv"])
def test_a_copy_keeps_the_sound(tmp_path, suffix):
    source = clip(tmp_path / f"source{suffix}", sound_s=4)
    assert copy(tmp_path / "a.mp4", source) == ""
    lengths_s = streams_of(tmp_path / "a.mp4", "duration")
    assert lengths_s["audio"] == pytest.approx(4, abs=0.1)
    assert lengths_s["video"] == pytest.approx(6.04, abs=0.1)
    np.testing.assert_allclose(stamps_of(tmp_path / "a.mp4"), TIMES_S, atol=2e-3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", source.name]


def test_sound_that_came_first_comes_first_in_the_copy(tmp_path):
    source = tmp_path / "late.mkv"
    shown = ["-itsoffset", "1.5", "-f", "lavfi", "-i", "testsrc=size=96x64:duration=2"]
    ffmpeg(*shown, "-f", "lavfi", "-t", "4", "-i", "sine", source)
    assert copy(tmp_path / "a.mp4", source) == ""
    starts_s = streams_of(tmp_path / "a.mp4", "start_time")
    assert starts_s["video"] - starts_s["audio"] == pytest.approx(1.5, abs=0.05)


def test_a_copy_without_sound_says_so_where_ffmpeg_is_absent(tmp_path, monkeypatch):
    source = clip(tmp_path / "with.mkv", sound_s=2)
    silent, unknown = clip(tmp_path / "without.mkv"), clip(tmp_path / "unknown.ts")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert (
        copy(tmp_path / "a.mp4", source)
        == f"the copy of {source} has no sound: ffmpeg, which keeps it, is not installed"
    )
    assert copy(tmp_path / "b.mp4", silent) == ""
    assert "has no sound, if that had any: ffmpeg" in copy(tmp_path / "c.mp4", unknown)
    assert len(list(frames(str(tmp_path / "a.mp4")))) == 7


@pytest.mark.parametrize("length", [2**63 - 1, 2**63, 2**64 - 1])
def test_a_box_that_ends_where_no_file_can_is_missing_something(tmp_path, length):
    path = tmp_path / "x.mp4"
    path.write_bytes(b"\0\0\0\x10ftypisom\0\0\0\0" + b"\0\0\0\1mdat" + length.to_bytes(8, "big") + bytes(32))
    assert missing_bytes(path) == 16 + length - path.stat().st_size
    assert promised_frames(path) is None and not has_sound(path)
