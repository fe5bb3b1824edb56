"""Pictures, videos, playlists and the names of sources."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from edge_app.core.errors import EdgeError
from edge_app.core.plain_text import plain
from edge_app.media import container, kinds
from edge_app.media.folders import list_folder, named_folders, unused_line, unused_words
from edge_app.media.pictures import can_read_heic, comment_of, open_picture
from edge_app.media.source_spec import parse_source, without_secrets
from edge_app.media.sources import frames
from tests.fuzz.harness import entry_point, parsed_texts, say
from tests.media.clips import CODECS, clip
from tests.media.heic import HEIC


def _pictures():
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    image, made = Image.fromarray(pixels), []
    exif = Image.Exif()
    exif[0x0112] = 6
    for form, options in (
        ("JPEG", {"exif": exif, "comment": b"edge-app"}), ("JPEG", {"progressive": True}), ("PNG", {"pnginfo": None}),
        ("GIF", {}), ("BMP", {}), ("WEBP", {}), ("WEBP", {"lossless": True, "exif": exif}), ("TIFF", {"exif": exif}),
        ("TIFF", {"compression": "tiff_lzw"}), ("PPM", {}), ("AVIF", {}), ("JPEG2000", {}),
    ):  # fmt: skip
        file = io.BytesIO()
        with contextlib.suppress(OSError, KeyError):  # a build of Pillow without that encoder
            image.save(file, form, **options)
            made.append(file.getvalue())
    for mode in ("I;16", "CMYK", "P", "RGBA", "L", "1", "F"):
        file = io.BytesIO()
        image.convert("L" if mode == "I;16" else mode).convert(mode).save(file, "TIFF")
        made.append(file.getvalue())
    return made


@entry_point("bytes", _pictures, share=3)
def picture(data, folder):
    """A picture under a suffix that need not be its own."""
    path = folder / f"x{('.jpg', '.png', '', '.webp', '.tif')[len(data) % 5]}"
    path.write_bytes(data)
    read = open_picture(path, max_px=256)
    assert read.pixels.dtype == np.uint8 and max(read.pixels.shape[:2]) <= 256 and 0 < read.scale <= 1
    return comment_of(path)


@entry_point("bytes", [HEIC] if can_read_heic() else [b"\0\0\0\x18ftypheic\0\0\0\0heic"])
def heic(data, folder):
    """A HEIC picture."""
    (folder / "x.heic").write_bytes(data)
    return str(open_picture(folder / "x.heic", max_px=256).pixels.shape)


@cache
def _clips():
    if shutil.which("ffmpeg") is None:
        return (b"RIFF\x24\0\0\0AVI LIST",)
    with tempfile.TemporaryDirectory() as folder:
        made = []
        for suffix in CODECS:
            path = Path(folder, f"clip{suffix}")
            short = ("-t", "0.4")
            made.append(clip(path, more=short).read_bytes())
        made.append(clip(Path(folder, "sound.mp4"), sound_s=0.4, more=("-t", "0.4")).read_bytes())
    return tuple(made)


@entry_point("bytes", _clips, share=0.4)
def video(data, folder):
    """A video, of every container, read to its end; what is told of its wholeness and sound."""
    path = folder / "x.bin"
    path.write_bytes(data)
    container.missing_bytes(path), container.promised_frames(path), container.has_sound(path)
    count = 0
    for frame in frames(str(path)):
        count += 1
        assert frame.pixels.ndim == 3 and frame.time_s >= 0
        if count > 60:
            break
    return f"{count} {kinds.kind_of(path)}"


_PLAYLISTS = [
    b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:2.0,\n/etc/passwd\n#EXT-X-ENDLIST\n",
    b"#EXTM3U\n#EXTINF:2.0,\nhttp://127.0.0.1:9/x.ts\n",
    b"ffconcat version 1.0\nfile '/etc/passwd'\nduration 1\n",
    b"v=0\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    b'<?xml version="1.0"?><MPD mediaPresentationDuration="PT2S"><Period/></MPD>',
]


@entry_point("bytes", _PLAYLISTS)
def playlist(data, folder):
    """A playlist under a video's name opens nothing else."""
    path = folder / "x.mp4"
    path.write_bytes(data)
    return str(len(list(frames(str(path)))))


_SOURCES = [
    "0", "/dev/video0", "camera:1", "sample", "rtsp://user:pass@camera:554/cam?x=1", "http://10.0.0.1/snap.jpg#fps=2",
    "https://[::1]:8080/x", "folder/", "~/x.mp4", "10:30:00.mp4", "a%02d.jpg", "file:///tmp/x.mp4", "concat:a|b",
]  # fmt: skip


@entry_point("json", [json.dumps(_SOURCES).encode()], share=3)
def source_name(data, folder):
    """What a source is called: never opened when it is an address."""
    told = []
    for text in parsed_texts(data):
        try:
            spec = parse_source(text)
            told.append(spec.name)
        except EdgeError as error:
            told.append(str(error))
        assert "pass@" not in without_secrets(text) or "://" not in text or "user:pass@" not in without_secrets(text)
    return " ".join(told)


_NAMES = ["a.jpg", " lead.jpg", "~temp.jpg", "-x.jpg", "10:30.png", "caf\udce9.jpg", "نیم\u200cفاصله.jpg", "@eaDir"]


@entry_point("json", [json.dumps(_NAMES).encode()], share=0.6)
def folder_of_names(data, folder):
    """Files and folders of any names in a folder that is listed, and taken for people."""
    for number, text in enumerate(parsed_texts(data)):
        with contextlib.suppress(OSError, ValueError):  # no file can be called so
            path = folder / "pictures" / text
            if folder / "pictures" not in path.parents or ".." in path.parts:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(HEIC if number % 3 else b"\xff\xd8\xff\xe0no picture")
            person = folder / "people" / text
            person.mkdir(parents=True, exist_ok=True)
            (person / "x.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    if not (folder / "people").is_dir():
        return ""
    listing = list_folder(folder / "pictures", recursive=True)
    told, unused = [unused_words(listing.left())], []
    people = named_folders(folder / "people", of="person", unused=unused, problem=told.append)
    for path in listing.pictures:
        with contextlib.suppress(EdgeError):
            open_picture(path)
    told.append(unused_line([listing.left(), *unused]))
    assert all(pictures for _, pictures in people) or told
    return "\n".join(map(plain, told))


@entry_point("json", [json.dumps(_NAMES).encode()], share=0.01)
def recognize_names(data, folder):
    """`recognize` and `enroll --folder` of files and folders of any names."""
    folder_of_names(data, folder)
    if not (folder / "people").is_dir():
        return ""
    home = ("--home", folder / "home")
    shown = say("recognize", folder / "pictures", "--recursive", *home)
    return shown + say("enroll", "--folder", folder / "people", *home)
