"""Every kind of image file to the same uint8 array."""

import io
import os
import signal
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gluonexp.base.errors import GluonexpError
from gluonexp.data import decoded
from gluonexp.data.decoded import Decoding, decode_all
from gluonexp.data.images import UnreadableImageError, decode

PIXELS = np.random.default_rng(0).integers(0, 256, size=(6, 4, 3), dtype=np.uint8)
# Smooth, so that JPEG changes little.
SMOOTH = np.stack(np.broadcast_arrays(
    np.arange(0, 240, 10)[:, None], np.arange(0, 160, 10)[None], 90
), axis=-1).astype(np.uint8)  # fmt: skip
ORIENTATION = 0x0112


def luma(rgb):
    """ITU-R 601, as Pillow computes it."""
    return np.asarray(Image.fromarray(rgb).convert("L"))[..., None]


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp"])
def test_lossless_formats_give_the_very_pixels(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(PIXELS).save(path, **({"lossless": True} if suffix == "webp" else {}))
    assert np.array_equal(decode(path, 6, 4, 3), PIXELS)
    assert np.array_equal(decode(str(path), 6, 4, 1), luma(PIXELS))


def test_jpeg_gives_what_pillow_gives(tmp_path):
    path = tmp_path / "image.jpg"
    Image.fromarray(SMOOTH).save(path)
    with Image.open(path) as image:
        expected = np.asarray(image)
    assert np.array_equal(decode(path, 24, 16, 3), expected)
    assert np.abs(expected.astype(int) - SMOOTH).mean() < 4


def test_grey_becomes_equal_channels(tmp_path):
    path = tmp_path / "grey.png"
    Image.fromarray(PIXELS[..., 0]).save(path)
    assert np.array_equal(decode(path, 6, 4, 3), np.repeat(PIXELS[..., :1], 3, axis=-1))
    assert np.array_equal(decode(path, 6, 4, 1), PIXELS[..., :1])


def test_one_bit_becomes_black_and_white(tmp_path):
    path = tmp_path / "bits.png"
    Image.fromarray(PIXELS[..., 0] > 127).save(path)
    assert np.array_equal(decode(path, 6, 4, 1)[..., 0], np.where(PIXELS[..., 0] > 127, 255, 0))


def test_palette_is_resolved(tmp_path):
    path = tmp_path / "palette.png"
    palette = Image.new("P", (2, 2))
    palette.putdata([0, 1, 1, 2])
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.save(path)
    expected = [[[255, 0, 0], [0, 255, 0]], [[0, 255, 0], [0, 0, 255]]]
    assert decode(path, 2, 2, 3).tolist() == expected
    # Index 1 transparent: white.
    palette.save(path, transparency=1)
    expected = [[[255, 0, 0], [255, 255, 255]], [[255, 255, 255], [0, 0, 255]]]
    assert decode(path, 2, 2, 3).tolist() == expected


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_transparency_is_put_on_white(tmp_path, suffix):
    path = tmp_path / f"alpha.{suffix}"
    pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], dtype=np.uint8)
    Image.fromarray(pixels).save(path, **({"lossless": True} if suffix == "webp" else {}))
    assert decode(path, 1, 3, 3).tolist() == [[[10, 20, 30], [255] * 3, [204] * 3]]


def test_grey_with_transparency_is_put_on_white(tmp_path):
    path = tmp_path / "grey_alpha.png"
    Image.fromarray(np.array([[[40, 255], [40, 0]]], dtype=np.uint8)).save(path)
    assert decode(path, 1, 2, 1).tolist() == [[[40], [255]]]
    # One grey level declared transparent instead of an alpha channel.
    Image.fromarray(np.array([[40, 41]], dtype=np.uint8)).save(path, transparency=41)
    assert decode(path, 1, 2, 1).tolist() == [[[40], [255]]]


def test_cmyk_becomes_rgb(tmp_path):
    path = tmp_path / "cmyk.jpg"
    cyan = np.zeros((8, 8, 4), dtype=np.uint8)
    cyan[..., 0] = 255
    Image.fromarray(cyan, mode="CMYK").save(path, quality=100)
    assert np.abs(decode(path, 8, 8, 3).astype(int) - [0, 255, 255]).max() <= 2


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    path = tmp_path / "deep.png"
    Image.fromarray(np.array([[0, 257, 32896, 65535, 128, 129]], dtype=np.uint16)).save(path)
    assert decode(path, 1, 6, 1).ravel().tolist() == [0, 1, 128, 255, 0, 1]
    assert decode(path, 1, 6, 3)[0, 3].tolist() == [255, 255, 255]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(tmp_path, suffix, orientation):
    # What a viewer shows for each value of the EXIF standard, which says where in the scene the
    # file's first row and first column are.
    seen = {
        1: SMOOTH,
        2: SMOOTH[:, ::-1],
        3: SMOOTH[::-1, ::-1],
        4: SMOOTH[::-1],
        5: SMOOTH.transpose(1, 0, 2),
        6: SMOOTH[::-1].transpose(1, 0, 2),
        7: SMOOTH[::-1, ::-1].transpose(1, 0, 2),
        8: SMOOTH[:, ::-1].transpose(1, 0, 2),
    }[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"turned.{suffix}"
    options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}
    Image.fromarray(SMOOTH).save(path, exif=exif, **options.get(suffix, {}))
    decoded = decode(path, seen.shape[0], seen.shape[1], 3)
    assert np.abs(decoded.astype(int) - seen).max() <= (8 if suffix == "jpg" else 0)


def tiff(*entries):
    """Return EXIF of entries (tag, type, count, value), as a camera may write it."""
    data, place = b"", 8 + 2 + 12 * len(entries) + 4
    directory = struct.pack("<H", len(entries))
    for tag, kind, count, value in entries:
        directory += struct.pack("<HHI", tag, kind, count)
        if len(value) <= 4:
            directory += value.ljust(4, b"\0")
        else:
            directory += struct.pack("<I", place + len(data))
            data += value
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + directory + bytes(4) + data


TURNED = (ORIENTATION, 3, 1, struct.pack("<H", 6))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize(
    ("exif", "turned"),
    [
        (tiff(TURNED, (0x011A, 2, 6, b"72/1\0\0")), True),  # XResolution as text
        (tiff(TURNED, (0x8769, 4, 1, struct.pack("<I", 99_999))), True),  # beyond the end
        (tiff((ORIENTATION, 2, 2, b"6\0")), False),
        (tiff((ORIENTATION, 5, 1, struct.pack("<II", 6, 0))), False),
        (tiff((ORIENTATION, 3, 1, struct.pack("<H", 99))), False),
        (tiff(TURNED)[:14], False),
        (b"Exif\0\0nothing", False),
    ],
    ids=["text", "pointer", "orientation as text", "by zero", "99", "cut short", "none"],
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # pytest sets our own filter aside
def test_an_image_with_damaged_exif_is_read(tmp_path, suffix, exif, turned):
    path = tmp_path / f"image.{suffix}"
    options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}
    Image.fromarray(SMOOTH).save(path, exif=exif, **options.get(suffix, {}))
    seen = SMOOTH[::-1].transpose(1, 0, 2) if turned else SMOOTH
    decoded = decode(path, seen.shape[0], seen.shape[1], 3)
    assert np.abs(decoded.astype(int) - seen).max() <= 8


def test_another_size_is_resized_with_antialiasing(tmp_path):
    path = tmp_path / "fine.png"
    checks = np.indices((64, 64)).sum(axis=0) % 2 * 255
    Image.fromarray(checks.astype(np.uint8)).save(path)
    assert np.abs(decode(path, 8, 8, 1).astype(int) - 127).max() <= 1
    expected = Image.fromarray(SMOOTH).resize((10, 12), Image.Resampling.BILINEAR)
    Image.fromarray(SMOOTH).save(path)
    assert np.array_equal(decode(path, 12, 10, 3), np.asarray(expected))


def test_a_large_jpeg_is_close_to_its_full_decoding(tmp_path):
    path = tmp_path / "large.jpg"
    small = np.random.default_rng(0).integers(0, 256, size=(64, 48, 3), dtype=np.uint8)
    Image.fromarray(small).resize((480, 640), Image.Resampling.BICUBIC).save(path)
    with Image.open(path) as image:
        expected = np.asarray(image.resize((48, 64), Image.Resampling.BILINEAR)).astype(int)
    difference = np.abs(decode(path, 64, 48, 3) - expected)
    assert difference.mean() < 1.5  # noise as fine as the result: the worst case
    assert difference.max() < 8


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp"])
@given(data=st.data())
def test_damage_is_always_the_one_error_that_names_the_file(tmp_path_factory, suffix, data):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, {"jpg": "jpeg"}.get(suffix, suffix))
    content = bytearray(buffer.getvalue())
    content = content[: data.draw(st.integers(0, len(content)))]
    for _ in range(data.draw(st.integers(0, 4)) if content else 0):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / f"damaged.{suffix}"
    path.write_bytes(content)
    try:
        assert decode(path, 6, 4, 3).shape == (6, 4, 3)
    except UnreadableImageError as error:
        assert str(path) in str(error)


def test_a_file_that_is_no_image_is_named(tmp_path):
    path = tmp_path / "notes.jpg"
    path.write_text("not an image")
    with pytest.raises(GluonexpError, match=r"notes\.jpg: not a JPEG, PNG, WebP or BMP image"):
        decode(path, 4, 4, 3)
    with pytest.raises(GluonexpError, match=r"gone\.png: .*No such file"):
        decode(tmp_path / "gone.png", 4, 4, 3)


def test_a_format_not_promised_is_not_opened(tmp_path):
    path = tmp_path / "really_a_gif.png"
    Image.fromarray(PIXELS).save(path, "gif")
    with pytest.raises(UnreadableImageError, match="not a JPEG"):
        decode(path, 6, 4, 3)


def test_a_decompression_bomb_is_refused_unread(tmp_path):
    path = tmp_path / "bomb.png"

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))
    )
    said = (
        r"bomb\.png: its 3,600,000,000 pixels are more than 200,000,000, the most that are read$"
    )
    with pytest.raises(UnreadableImageError, match=said):
        decode(path, 8, 8, 3)


@pytest.mark.filterwarnings("error")
def test_the_limit_of_pixels_is_the_users(tmp_path):
    path = tmp_path / "large.png"
    Image.new("1", (13_500, 7_000)).save(path)  # more than Pillow takes without a warning
    assert decode(path, 8, 8, 1).shape == (8, 8, 1)
    with pytest.raises(
        UnreadableImageError, match=r"its 94,500,000 pixels are more than 94,000,00"
    ):
        decode(path, 8, 8, 1, max_pixels=94_000_000)
    Image.new("1", (30, 20)).save(path)
    assert decode(path, 8, 8, 1, max_pixels=600).shape == (8, 8, 1)
    with pytest.raises(UnreadableImageError, match="its 600 pixels are more than 599"):
        decode(path, 8, 8, 1, max_pixels=599)


def test_a_pointer_of_git_lfs_is_called_one(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(UnreadableImageError, match=r"photo\.jpg is a git-LFS pointer"):
        decode(path, 8, 8, 1)


@pytest.mark.parametrize("side", [8, 200])  # below and above the file size from which threads work
def test_many_files_keep_their_order_and_broken_ones_are_found(tmp_path, side):
    rng = np.random.default_rng(side)
    expected = rng.integers(0, 256, size=(600 if side == 8 else 12, side, side, 3), dtype=np.uint8)
    paths = [tmp_path / f"{index}.bmp" for index in range(len(expected))]
    for path, pixels in zip(paths, expected, strict=True):
        Image.fromarray(pixels).save(path)
    images = np.zeros_like(expected)
    how = Decoding(side, side, 3)
    assert decode_all(paths, how, images, "reading") == []
    assert np.array_equal(images, expected)
    gone = [3, 7, len(paths) - 1]
    for index in gone:
        paths[index].write_bytes(b"BM")
    assert decode_all(paths, replace(how, skip_broken=True), images, "reading") == gone
    assert np.array_equal(np.delete(images, gone, 0), np.delete(expected, gone, 0))
    with pytest.raises(UnreadableImageError, match=r"/3\.bmp"):
        decode_all(paths, how, images, "reading")


def test_processes_decode_as_a_loop_does(tmp_path, monkeypatch):
    monkeypatch.setattr(decoded, "_PROCESSES_FROM", 1)
    monkeypatch.setattr(decoded, "cores", lambda: 2)
    paths = [tmp_path / f"{index}.bmp" for index in range(600)]
    for index, path in enumerate(paths):
        Image.new("L", (2, 2), index % 256).save(path)
    paths[300].write_bytes(b"BM")
    paths[599].write_bytes(b"BM")
    how = Decoding(2, 2, 1, skip_broken=True)
    images = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.uint8, (600, 2, 2, 1))
    assert decode_all(paths, how, images, "reading") == [300, 599]
    expected = np.arange(600) % 256
    expected[[300, 599]] = 0
    assert (images[:, 0, 0, 0] == expected).all()
    with pytest.raises(UnreadableImageError, match=r"/300\.bmp"):
        decode_all(paths, replace(how, skip_broken=False), images, "reading")


class Killing(Decoding):
    def one(self, path):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(decoded, "_PROCESSES_FROM", 1)
    monkeypatch.setattr(decoded, "cores", lambda: 2)
    for index in range(2):
        Image.new("L", (2, 2)).save(tmp_path / f"{index}.bmp")
    images = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.uint8, (2, 2, 2, 1))
    with pytest.raises(GluonexpError, match=r"0\.bmp or one after it: .* signal 9 \(SIGKILL\)"):
        decode_all(sorted(tmp_path.glob("*.bmp")), Killing(2, 2, 1), images, "reading")
