"""Reading and writing pictures: every kind of good file gives the same pixels, every kind of bad one gives one line."""

from __future__ import annotations

import io
import os
import stat
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_app.core.errors import MediaError
from edge_app.media import pictures
from edge_app.media.folders import find_pictures
from edge_app.media.pictures import can_read_heic, open_picture, read_picture, write_picture
from tests.media.heic import HEIC


def known() -> np.ndarray:
    """60 x 40: red, green, blue and white quarters, so that every turn and mirror image differs."""
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:20, :30] = 200, 20, 30
    picture[:20, 30:] = 20, 180, 40
    picture[20:, :30] = 30, 20, 190
    picture[20:, 30:] = 230, 230, 230
    return picture


def saved(folder: Path, name: str, image: Image.Image, **options) -> Path:
    image.save(folder / name, **options)
    return folder / name


def refusal(path: Path) -> str:
    with pytest.raises(MediaError) as caught:
        read_picture(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.ppm", "a.gif"])
def test_lossless_formats_give_the_exact_pixels(tmp_path, name):
    path = saved(tmp_path, name, Image.fromarray(known()))
    pixels = read_picture(path)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, known())


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.avif", "a.jp2"])
def test_lossy_formats_give_nearly_the_pixels(tmp_path, name):
    path = saved(tmp_path, name, Image.fromarray(known()), quality=95)
    assert np.abs(read_picture(path).astype(int) - known()).mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_every_exif_orientation_is_turned_upright(tmp_path, orientation, name):
    # What a camera stores so that a viewer who applies the tag sees `known()`.
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](known())
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(stored))
    path = saved(tmp_path, name, image, exif=exif, **({"quality": 95} if name == "a.jpg" else {}))
    picture = open_picture(path)
    assert picture.pixels.shape == (40, 60, 3)
    assert picture.original_size_px == (60, 40)
    assert np.abs(picture.pixels.astype(int) - known()).mean() < 4


def test_a_damaged_exif_block_leaves_the_picture_as_it_is(tmp_path):
    path = saved(tmp_path, "a.jpg", Image.fromarray(known()), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff\x01\x12", quality=95)
    assert read_picture(path).shape == (40, 60, 3)


def test_grey_becomes_three_equal_channels(tmp_path):
    grey = known()[..., 0]
    pixels = read_picture(saved(tmp_path, "a.png", Image.fromarray(grey)))
    np.testing.assert_array_equal(pixels, np.repeat(grey[..., None], 3, axis=2))


def test_one_bit_becomes_black_and_white(tmp_path):
    path = saved(tmp_path, "a.png", Image.fromarray(known()[..., 0] > 100))
    assert set(np.unique(read_picture(path))) == {0, 255}


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bit_grey_keeps_its_shades(tmp_path, name):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(3, axis=0)
    pixels = read_picture(saved(tmp_path, name, Image.fromarray(ramp)))
    np.testing.assert_array_equal(pixels[0, :, 0], np.arange(256))


def test_big_endian_sixteen_bit_tiff_keeps_its_shades(tmp_path):
    ramp = np.linspace(0, 65535, 256).astype(">u2")
    image = Image.frombytes("I;16B", (256, 1), ramp.tobytes())
    np.testing.assert_array_equal(read_picture(saved(tmp_path, "a.tif", image))[0, :, 1], np.arange(256))


def test_sixteen_bit_colour_png_becomes_eight_bit(tmp_path):
    rows = b"".join(b"\0" + known()[y].astype(">u2").__mul__(257).astype(">u2").tobytes() for y in range(40))
    path = tmp_path / "a.png"
    path.write_bytes(png(60, 40, zlib.compress(rows), bits=16))
    np.testing.assert_array_equal(read_picture(path), known())


@pytest.mark.parametrize(("top", "white"), [(1.0, 1.0), (255.0, 255.0), (900000.0, 900000.0)])
def test_float_tiff_is_read_by_its_own_range(tmp_path, top, white):
    ramp = np.linspace(0, top, 256, dtype=np.float32)[None]
    pixels = read_picture(saved(tmp_path, "a.tif", Image.fromarray(ramp)))
    np.testing.assert_array_equal(pixels[0, :, 0], np.rint(ramp[0] * 255 / white).astype(np.uint8))


def test_a_black_float_tiff_is_black(tmp_path):
    assert read_picture(saved(tmp_path, "a.tif", Image.fromarray(np.zeros((2, 2), np.float32)))).max() == 0


def test_cmyk_becomes_rgb(tmp_path):
    path = saved(tmp_path, "a.jpg", Image.fromarray(known()).convert("CMYK"), quality=95)
    assert np.abs(read_picture(path).astype(int) - known()).mean() < 6


def test_lab_becomes_rgb(tmp_path):
    pixels = read_picture(saved(tmp_path, "a.tif", Image.new("LAB", (8, 8), (128, 128, 128))))
    assert np.ptp(pixels) <= 4  # L alone: a grey
    assert 100 < pixels.mean() < 140


def test_palette_with_and_without_transparency(tmp_path):
    flat = Image.fromarray(known()).quantize(16)
    np.testing.assert_array_equal(read_picture(saved(tmp_path, "a.png", flat)), known())
    clear = saved(tmp_path, "b.png", flat, transparency=flat.getpixel((0, 0)))
    pixels = read_picture(clear)
    assert tuple(pixels[0, 0]) == (128, 128, 128)
    assert tuple(pixels[0, 59]) == tuple(known()[0, 59])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_lie_on_mid_grey(tmp_path, mode):
    image = Image.fromarray(known()).convert(mode)
    alpha = np.zeros((40, 60), np.uint8)
    alpha[:, 30:] = 255
    image.putalpha(Image.fromarray(alpha))
    pixels = read_picture(saved(tmp_path, "a.png", image))
    assert (pixels[:, :30] == 128).all()
    np.testing.assert_array_equal(pixels[:, 30:], np.asarray(image.convert("RGB"))[:, 30:])


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_the_first_frame_of_an_animation_is_taken(tmp_path, name):
    others = [Image.new("RGB", (60, 40), colour) for colour in ("black", "yellow")]
    options = {"lossless": True} if name == "a.webp" else {}
    path = saved(tmp_path, name, Image.fromarray(known()), save_all=True, append_images=others, duration=50, **options)
    np.testing.assert_array_equal(read_picture(path), known())


def test_one_pixel_is_a_picture(tmp_path):
    picture = open_picture(saved(tmp_path, "a.png", Image.new("RGB", (1, 1), (1, 2, 3))))
    assert picture.pixels.tolist() == [[[1, 2, 3]]]
    assert picture.scale == 1.0


def test_a_large_picture_is_shrunk_and_tells_its_scale(tmp_path):
    path = saved(tmp_path, "a.png", Image.fromarray(known()).resize((600, 400)))
    picture = open_picture(path, max_px=60)
    assert picture.pixels.shape == (40, 60, 3)
    assert picture.original_size_px == (600, 400)
    assert picture.scale == pytest.approx(0.1)
    assert np.abs(picture.pixels.astype(int) - known()).mean() < 4


def test_nothing_is_enlarged(tmp_path):
    assert read_picture(saved(tmp_path, "a.png", Image.fromarray(known())), max_px=1000).shape == (40, 60, 3)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "I;16", "CMYK", "1"])
def test_pictures_of_many_bands_equal_the_same_read_at_once(tmp_path, monkeypatch, mode):
    smooth = Image.fromarray(known()).resize((601, 403), Image.Resampling.BILINEAR)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(smooth.convert("L")).astype(np.uint16) * 257)
    else:
        image = smooth.convert(mode)
    path = saved(tmp_path, "a.tif", image)
    whole = read_picture(path, max_px=100)
    monkeypatch.setattr(pictures, "_BAND_PIXELS", 601 * 20)
    banded = read_picture(path, max_px=100)
    assert whole.shape == banded.shape
    assert np.abs(whole.astype(int) - banded).mean() < (6 if mode == "1" else 1)


# VmHWM and not ru_maxrss: that one starts with what the parent process held when it forked.
MEMORY_PROBE = """
import re, sys
from pathlib import Path
from edge_app.media.pictures import open_picture
def peak_kib():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1))
before = peak_kib()
picture = open_picture(Path(sys.argv[1]))
print(peak_kib() - before, *picture.pixels.shape, picture.scale)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/status is Linux")
@pytest.mark.parametrize(("name", "mode", "bound_mib"), [("a.jpg", "RGB", 300), ("a.png", "L", 350)])
def test_a_picture_of_108_megapixels_is_read_within_its_memory(tmp_path, name, mode, bound_mib):
    path = saved(tmp_path, name, Image.new(mode, (12_000, 9_000), 90))
    done = subprocess.run([sys.executable, "-c", MEMORY_PROBE, str(path)], capture_output=True, text=True, check=True)
    kib, height, width, _, scale = done.stdout.split()
    assert (int(width), int(height)) == (4096, 3072)
    assert float(scale) == pytest.approx(4096 / 12_000)
    assert int(kib) / 1024 < bound_mib
    assert done.stderr == ""  # Pillow's own warning about large pictures stays away


def png(width: int, height: int, data: bytes, bits: int = 8) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size_px", [(20_000, 20_000), (14_000, 13_000), (70_000, 1), (2_000_000_000, 2)])
def test_a_decompression_bomb_is_refused_unread(tmp_path, size_px):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(*size_px, zlib.compress(b"\0")))
    assert "expected at most 178 megapixels and 65500 px a side" in refusal(path)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("name", ["a.jpg", "b.jpg", "a.png", "a.gif", "a.webp", "a.tif", "a.bmp", "a.avif", "a.jp2"])
def test_a_truncated_file_is_never_half_a_picture(tmp_path, name, share):
    noisy = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    options = {"progressive": True} if name == "b.jpg" else {"lossless": True} if name == "a.webp" else {}
    path = saved(tmp_path, name, Image.fromarray(noisy), **options)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert "damaged or cut short" in (message := refusal(path)) or "is not a picture" in message


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_picture_with_bytes_overwritten_is_a_picture_or_one_line(tmp_path):
    """Damage of any kind must end in pixels or in a MediaError, never in another exception."""
    random = np.random.default_rng(1)
    noisy = Image.fromarray(random.integers(0, 255, (24, 32, 3), dtype=np.uint8))
    for suffix in (".jpg", ".png", ".gif", ".webp", ".tif", ".bmp", ".ppm", ".avif"):
        stream = io.BytesIO()
        noisy.save(stream, {".jpg": "JPEG", ".tif": "TIFF"}.get(suffix, suffix[1:].upper()))
        for _ in range(60):
            data = bytearray(stream.getvalue())
            for place in random.integers(0, min(len(data), 400), 4):
                data[place] = random.integers(0, 256)
            path = tmp_path / f"a{suffix}"
            path.write_bytes(data)
            try:
                assert read_picture(path).ndim == 3
            except MediaError as error:
                assert "\n" not in str(error)


@pytest.mark.parametrize(
    "content", [b"hello, I am text", b"\0" * 100, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_a_file_that_is_no_picture(tmp_path, content):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    assert "is not a picture" in refusal(path)


@pytest.fixture
def without_heic(monkeypatch):
    """As where the extra is not installed."""
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    can_read_heic.cache_clear()
    yield
    can_read_heic.cache_clear()


def test_a_heic_picture_says_what_to_install(tmp_path, without_heic):
    path = tmp_path / "IMG_0001.HEIC"
    path.write_bytes(HEIC)
    assert "is a HEIC picture; install what reads it: pip install 'edge-app[heic]'" in refusal(path)


@pytest.mark.parametrize("name", ["a.heic", "a.jpg", "a"])
def test_a_heic_picture_is_read_upright_with_the_extra(tmp_path, name):
    pytest.importorskip("pi_heif", reason="needs the extra heic")
    (tmp_path / name).write_bytes(HEIC)
    picture = open_picture(tmp_path / name)
    assert (picture.pixels.shape, picture.original_size_px) == ((64, 96, 3), (96, 64))
    quarters = [picture.pixels[y, x].astype(int) for y in (16, 48) for x in (24, 72)]
    np.testing.assert_allclose(quarters, [known()[y, x] for y in (10, 30) for x in (15, 45)], atol=12)


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95])
def test_a_damaged_heic_picture_is_one_line(tmp_path, keep):
    pytest.importorskip("pi_heif", reason="needs the extra heic")
    (tmp_path / "a.heic").write_bytes(HEIC[: int(keep * len(HEIC))])
    assert "damaged or cut short" in refusal(tmp_path / "a.heic")


def test_a_raw_photo_and_a_video_say_what_they_are(tmp_path):
    (tmp_path / "a.NEF").write_bytes(b"MM\0*\0\0\0\x08" + bytes(64))
    assert "raw photo; expected a picture; export it as JPEG" in refusal(tmp_path / "a.NEF")
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftypisom\0\0\2\0isommp42")
    assert "is a video" in refusal(tmp_path / "a.jpg")


def test_empty_missing_folder_and_pipe_are_told_apart(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "nowhere.jpg").symlink_to(tmp_path / "gone")
    assert "is empty" in refusal(tmp_path / "empty.jpg")
    assert "is a folder" in refusal(tmp_path / "folder.jpg")
    assert "pipe or a device" in refusal(tmp_path / "pipe.jpg")
    assert "does not exist" in refusal(tmp_path / "nowhere.jpg")
    assert "does not exist" in refusal(tmp_path / "missing.jpg")
    assert "does not exist" in refusal(tmp_path / "no folder" / "missing.jpg")
    assert "cannot be opened" in refusal(tmp_path / ("x" * 300 + ".jpg"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_says_so(tmp_path):
    path = saved(tmp_path, "a.png", Image.fromarray(known()))
    path.chmod(0)
    assert "cannot be opened (Permission denied)" in refusal(path)


def test_a_file_that_disappears_after_listing_is_one_line(tmp_path):
    path = saved(tmp_path, "a.png", Image.fromarray(known()))
    listed = find_pictures(tmp_path)
    path.unlink()
    assert "does not exist" in refusal(listed[0])


def test_a_file_that_disappears_while_it_is_read_is_still_read(tmp_path, monkeypatch):
    path = saved(tmp_path, "a.png", Image.fromarray(known()))
    decode = pictures._decode

    def vanishing(file, *others):
        path.unlink()
        return decode(file, *others)

    monkeypatch.setattr(pictures, "_decode", vanishing)
    np.testing.assert_array_equal(read_picture(path), known())


def test_no_handle_stays_open(tmp_path):
    good = saved(tmp_path, "a.png", Image.fromarray(known()))
    bad = tmp_path / "b.png"
    bad.write_bytes(good.read_bytes()[:60])
    read_picture(good)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        read_picture(good)
        refusal(bad)
        refusal(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("name", ["ä 李.png", "a.jpg", "a.JPEG", "a.webp"])
def test_what_is_written_is_read_again_and_private(tmp_path, name):
    write_picture(tmp_path / name, known(), quality=95)
    assert np.abs(read_picture(tmp_path / name).astype(int) - known()).mean() < 4
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_quality_makes_smaller_files(tmp_path):
    noisy = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    write_picture(tmp_path / "low.jpg", noisy, quality=20)
    write_picture(tmp_path / "high.jpg", noisy, quality=95)
    assert (tmp_path / "low.jpg").stat().st_size < (tmp_path / "high.jpg").stat().st_size / 2


def test_a_failed_write_keeps_the_old_picture_and_leaves_nothing_behind(tmp_path, monkeypatch):
    write_picture(tmp_path / "a.png", known())

    def full(self, file, *args, **options):
        file.write(b"half a picture")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(MediaError, match="No space left on device"):
        write_picture(tmp_path / "a.png", known()[::-1])
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), known())


def test_writing_elsewhere_is_refused_in_one_line(tmp_path):
    with pytest.raises(MediaError, match=r"expected \.jpg"):
        write_picture(tmp_path / "a.txt", known())
    with pytest.raises(MediaError, match="No such file or directory"):
        write_picture(tmp_path / "no" / "a.png", known())


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_in_a_picture_of_floats_do_not_spoil_the_others(tmp_path, odd):
    values = np.full((8, 8), 0.5, np.float32)
    values[0, 0] = odd
    Image.fromarray(values).save(tmp_path / "x.tif")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        pixels = read_picture(tmp_path / "x.tif")
    assert pixels[0, 0].tolist() == [255 if odd == np.inf else 0] * 3 and pixels[1, 1].tolist() == [128] * 3


@pytest.mark.skipif(not can_read_heic(), reason="needs the extra heic")
@pytest.mark.parametrize("at", range(4))
def test_a_heic_item_whose_type_is_no_text_is_refused_and_not_handed_to_a_decoder_that_dies(tmp_path, at):
    start = HEIC.index(b"Exif") + at
    (tmp_path / "x.heic").write_bytes(HEIC[:start] + b"\xe9" + HEIC[start + 1 :])
    code = "import sys; from pathlib import Path; from edge_app.media import pictures; "
    command = [sys.executable, "-c", code + "pictures.read_picture(Path(sys.argv[1]))", str(tmp_path / "x.heic")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "is damaged or cut short (its index makes no sense)" in done.stderr
