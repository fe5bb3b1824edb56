"""What a file is by its bytes, and what a folder holds."""

from __future__ import annotations

import io
import os
import socket
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_app.core.errors import MediaError
from edge_app.media.folders import find_pictures, list_folder, named_folders, unused_line, unused_words
from edge_app.media.kinds import kind_of, kind_of_bytes
from edge_app.media.pictures import can_read_heic
from tests.media.heic import HEIC

MP4 = b"\0\0\0\x18ftypisom\0\0\2\0isommp42"


def encoded(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (9, 12, 3), np.uint8)).save(stream, kind)
    return stream.getvalue()


def transport_stream(step: int, start: int = 0) -> bytes:
    """Packets whose only mark is one byte; all else is noise."""
    data = np.random.default_rng(2).integers(0, 255, 30 * step, np.uint8)
    data[start::step] = 0x47
    return data.tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000"])
@pytest.mark.parametrize("name", ["a", "a.bak", "a.pic", "a.jp2", "a.mp4", "a.txt", "a.heic"])
def test_a_picture_is_one_whatever_it_is_called(tmp_path, kind, name):
    (tmp_path / name).write_bytes(encoded(kind))
    assert kind_of(tmp_path / name) == "picture"
    assert find_pictures(tmp_path) == [tmp_path / name]


@pytest.mark.parametrize(
    "head",
    [
        MP4,
        b"\0\0\0\x14ftypqt  \0\0\2\0qt  ",
        b"\0\0\0\x08wide\0\0\0\x08mdat",
        b"\x1a\x45\xdf\xa3\xa3\x42\x86\x81\x01",
        b"RIFF\x1a\xea\0\0AVI LIST",
        b"FLV\x01\x01\0\0\0\x09",
        b"\0\0\x01\xba\x44\0\4\0",
        bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"),
        b"OggS" + bytes(24) + b"\x80theora",
        b"\0\0\0\x01\x67\x64\0\x1f",
        transport_stream(188),
        transport_stream(188, 77),
        transport_stream(192, 4),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".jpg", ".txt"])
def test_a_video_is_one_whatever_it_is_called(head, suffix):
    assert kind_of_bytes(head, suffix) == "video"


@pytest.mark.parametrize(
    ("head", "suffix", "kind"),
    [
        (HEIC, "", "heic"),
        (HEIC, ".jpg", "heic"),
        (b"\0\0\0\x24ftypmif1\0\0\0\0mif1heic", ".HEIC", "heic"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif", "", "picture"),
        (b"MM\0*\0\0\0\x08", ".nef", "raw"),
        (b"II*\0\x10\0\0\0CR\x02\0", "", "raw"),
        (b"FUJIFILMCCD-RAW 0201", "", "raw"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "", "raw"),
        (b"\0\0\0\x20ftypM4A \0\0\2\0M4A mp42", "", "other"),
        (b"RIFF\0\0\0\0WAVEfmt ", ".wav", "other"),
        (b"#!/bin/sh\n", "", "other"),
        (b"export const x: number = 1;\n", ".ts", "other"),
        (b"#EXTM3U\n", ".m3u8", "other"),
        (b"hello", ".jpg", "picture"),  # its damage is told when it is read
        (b"hello", ".mp4", "video"),
        (b"", ".png", "picture"),
        (b"", "", "empty"),
        (b"\xff\xd8\xff\xe0", ".mjpeg", "video"),
        (b"BM and so on, a letter that begins so", "", "other"),
    ],
)
def test_what_is_neither_is_told_apart(head, suffix, kind):
    assert kind_of_bytes(head, suffix.lower()) == kind


def test_noise_is_nothing():
    noise = np.random.default_rng(3)
    heads = (noise.integers(0, 256, 4096, np.uint8).tobytes() for _ in range(300))
    assert Counter(kind_of_bytes(head) for head in heads) == {"other": 300}


def test_pipes_sockets_folders_and_nothing_are_told_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        kinds = [kind_of(tmp_path / name) for name in ("pipe.jpg", "folder.jpg", "socket", "gone.jpg")]
    assert kinds == ["special", "folder", "special", "unreadable"]
    assert kind_of(Path("/dev/null")) == "special"


def test_a_folder_is_listed_sorted_without_hidden_files_and_junk(tmp_path):
    junk = (
        "@eaDir/a.jpg",
        "#recycle/a.jpg",
        "__MACOSX/a.jpg",
        ".thumbnails/a.jpg",
        "Thumbs.db",
        "desktop.ini",
        "._b.jpg",
    )
    for name in ("b.jpg", "A.PNG", ".hidden.jpg", "a.webp", "sub/d.jpg", "sub/.e.jpg", "sub/@eaDir/f.jpg", *junk):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded("JPEG"))

    def names(recursive: bool) -> list[str]:
        return [path.relative_to(tmp_path).as_posix() for path in find_pictures(tmp_path, recursive=recursive)]

    assert names(False) == ["A.PNG", "a.webp", "b.jpg"]
    assert names(True) == ["A.PNG", "a.webp", "b.jpg", "sub/d.jpg"]
    assert list_folder(tmp_path, recursive=True).unused == {}


@pytest.mark.skipif(os.name != "posix", reason="other systems refuse such names")
@pytest.mark.parametrize(
    "name", [b"~temp.jpg", b" lead.jpg", b"-x.jpg", b"10:30:00.jpg", b"caf\xe9.jpg", b"a\nb.jpg", b"\xff\xfe"]
)
def test_an_odd_name_is_a_name(tmp_path, name):
    path = tmp_path / os.fsdecode(name)
    path.write_bytes(encoded("PNG"))
    (tmp_path / "ok.jpg").write_bytes(encoded("JPEG"))
    assert set(find_pictures(tmp_path)) == {path, tmp_path / "ok.jpg"}


def test_nothing_is_left_out_in_silence(tmp_path, monkeypatch):
    monkeypatch.setattr("edge_app.media.folders.can_read_heic", lambda: False)
    for name in ("a.jpg", "b.HEIC", "c.heic", "clip.jpg", "notes.txt", "list.txt", "README", "x.nef"):
        data = {"a": encoded("JPEG"), "b": HEIC, "c": HEIC, "clip": MP4, "x": b"MM\0*1234"}.get(
            name.split(".")[0], b"text"
        )
        (tmp_path / name).write_bytes(data)
    (tmp_path / "sub").mkdir()
    os.mkfifo(tmp_path / "pipe")
    unused: list = []
    assert find_pictures(tmp_path, unused=unused) == [tmp_path / "a.jpg"]
    assert unused_line(unused) == (
        "not used: 2 HEIC pictures (to read them: pip install 'edge-app[heic]'), 1 raw photo (export them as JPEG), "
        "1 video, 1 sub-folder, 1 pipe or device, 3 other files (.txt, no suffix)"
    )
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(MediaError, match=r"no picture in .*it holds 2 HEIC pictures \(to read them: pip install"):
        find_pictures(tmp_path)


@pytest.mark.skipif(not can_read_heic(), reason="needs the extra heic")
def test_with_the_extra_heic_pictures_are_pictures(tmp_path):
    (tmp_path / "a.HEIC").write_bytes(HEIC)
    assert find_pictures(tmp_path) == [tmp_path / "a.HEIC"]


def test_all_used_is_no_line():
    assert unused_line([]) == unused_line([Counter()]) == unused_words(Counter()) == ""


def test_sub_folders_are_people_and_one_without_pictures_stops_nobody(tmp_path):
    for name in ("Ada/a.jpg", "Bob/notes.txt", "@eaDir/x.jpg", "stray.jpg", "Cid/sub/deep.jpg", "Cid/b.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encoded("JPEG") if name.endswith("jpg") else b"text")
    unused, told = [], []
    people = named_folders(tmp_path, of="person", unused=unused, problem=told.append)
    assert people == [("Ada", [tmp_path / "Ada/a.jpg"]), ("Bob", []), ("Cid", [tmp_path / "Cid/b.jpg"])]
    assert [f"no picture in {tmp_path / 'Bob'}" in line for line in told] == [True]
    assert unused_line(unused) == "not used: 1 picture outside the sub-folders, 1 sub-folder"
    with pytest.raises(MediaError, match="has no sub-folder; expected a sub-folder of pictures per person"):
        named_folders(tmp_path / "Ada", of="person", unused=[], problem=told.append)


def test_loops_of_links_end_and_each_folder_counts_once(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.jpg").touch()
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert find_pictures(tmp_path, recursive=True) == [tmp_path / "a" / "x.jpg"]


def test_a_link_to_a_folder_elsewhere_is_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.jpg").touch()
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link").symlink_to(tmp_path / "elsewhere")
    assert find_pictures(tmp_path / "here", recursive=True) == [tmp_path / "here" / "link" / "x.jpg"]


def test_a_folder_without_pictures_a_file_and_nothing_are_one_line_each(tmp_path):
    (tmp_path / "notes.txt").touch()
    for path, words in (
        (tmp_path, "no picture in"),
        (tmp_path / "notes.txt", "is a file"),
        (tmp_path / "gone", "does not exist"),
    ):
        with pytest.raises(MediaError, match=words) as caught:
            find_pictures(path)
        assert "\n" not in str(caught.value)
