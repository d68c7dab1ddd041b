import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from benchmarks.mutations import mutated
from femur_jax.data.radiograph import Source
from femur_jax.ingest.image_file import read_image_file
from femur_jax.ingest.rejection import RejectedFileError


def _pixels(dtype=np.uint8, shape=(31, 44)):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype)


def _code(path):
    with pytest.raises(RejectedFileError) as error:
        read_image_file(path)
    return error.value.code


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF"])
def test_eight_bits_are_spread(tmp_path, suffix):
    pixels, path = _pixels(), tmp_path / f"f{suffix}"
    Image.fromarray(pixels).save(path)
    picture = read_image_file(path)
    assert picture.pixels.dtype == np.uint16
    np.testing.assert_array_equal(picture.pixels, np.round(pixels / 255 * 65535))
    assert picture.source == Source(syntax=suffix[1:].lower(), bits=8)
    assert (picture.spacing_mm, picture.spacing_source) == (0.0, "unknown")
    assert (picture.crop, picture.instance) == ((0, 0, 31, 44), "")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_kept(tmp_path, suffix):
    pixels, path = _pixels(np.uint16), tmp_path / f"f{suffix}"
    Image.fromarray(pixels).save(path)
    np.testing.assert_array_equal(read_image_file(path).pixels, pixels)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "packbits"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_tiffs(tmp_path, byteorder, compression, dtype, photometric):
    pixels, top = _pixels(dtype), float(np.iinfo(dtype).max)
    tifffile.imwrite(
        tmp_path / "f.tif",
        pixels,
        byteorder=byteorder,
        compression=compression,
        photometric=photometric,
    )
    share = pixels / top if photometric == "minisblack" else 1 - pixels / top
    np.testing.assert_array_equal(
        read_image_file(tmp_path / "f.tif").pixels, np.round(share * 65535)
    )


def test_jpegs(tmp_path):
    y, x = np.mgrid[:31, :44]
    pixels = (100 + 50 * np.sin(y / 5) + 50 * np.cos(x / 5)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "f.jpg", quality=95)
    assert abs(read_image_file(tmp_path / "f.jpg").pixels / 257 - pixels).max() < 6


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_grey_in_three_channels_is_grey(tmp_path, suffix):
    pixels, path = _pixels(), tmp_path / f"f{suffix}"
    Image.fromarray(pixels).convert("RGB").save(path)
    np.testing.assert_array_equal(read_image_file(path).pixels, pixels * np.uint16(257))


def test_grey_palettes_and_transparency_are_grey(tmp_path):
    pixels = _pixels()
    for mode in ("P", "LA", "RGBA"):
        path = tmp_path / f"{mode}.png"
        Image.fromarray(pixels).convert(mode).save(path)
        np.testing.assert_array_equal(read_image_file(path).pixels, pixels * np.uint16(257))


def test_colour_is_rejected(tmp_path):
    Image.fromarray(_pixels(shape=(31, 44, 3))).save(tmp_path / "f.png")
    assert _code(tmp_path / "f.png") == "not_grey"


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_truncated_files_are_rejected(tmp_path, suffix):
    path = tmp_path / f"f{suffix}"
    Image.fromarray(_pixels()).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(0.8 * len(whole))])
    assert _code(path) == "undecodable"


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_text_under_a_wrong_name_is_rejected(tmp_path, suffix):
    for content, code in ((b"", "empty"), (b"path,patient_id,hospital,label\n", "not_image")):
        (tmp_path / f"f{suffix}").write_bytes(content)
        assert _code(tmp_path / f"f{suffix}") == code


def test_strange_depths_are_rejected(tmp_path):
    Image.fromarray(_pixels() > 99).save(tmp_path / "one.png")
    assert _code(tmp_path / "one.png") == "bit_depth"
    tifffile.imwrite(tmp_path / "float.tif", _pixels().astype(np.float32))
    assert _code(tmp_path / "float.tif") == "bit_depth"
    tifffile.imwrite(tmp_path / "signed.tif", _pixels().astype(np.int16))
    assert _code(tmp_path / "signed.tif") == "bit_depth"


def test_many_pages_are_rejected(tmp_path):
    tifffile.imwrite(tmp_path / "f.tif", _pixels(shape=(2, 31, 44)), photometric="minisblack")
    assert _code(tmp_path / "f.tif") == "frames"


def test_constant_images_are_rejected(tmp_path):
    Image.new("L", (9, 9), 7).save(tmp_path / "f.png")
    assert _code(tmp_path / "f.png") == "constant_image"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [6400, 12_000, 65_000])
def test_huge_images_are_rejected_before_they_are_decoded(tmp_path, side):
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    (tmp_path / "f.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))
    )
    assert _code(tmp_path / "f.png") == "too_large"


def test_other_formats_are_not_tried(tmp_path):
    """Pillow would open these files by their content, regardless of the suffix."""
    for kind in ("EPS", "GIF", "BMP", "TIFF", "PPM"):
        Image.fromarray(_pixels()).save(tmp_path / "f.png", kind)
        assert _code(tmp_path / "f.png") == "not_image"


def test_tiff_compressions_with_frail_decoders_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "f.tif", _pixels(), compression="jpeg")
    assert _code(tmp_path / "f.tif") == "tiff_kind"


def _with_entry(path, tag, value):
    """Changes one entry of the first page in a little-endian file."""
    data = bytearray(path.read_bytes())
    (start,) = struct.unpack_from("<I", data, 4)
    (number,) = struct.unpack_from("<H", data, start)
    for entry in range(start + 2, start + 2 + 12 * number, 12):
        if struct.unpack_from("<H", data, entry)[0] == tag:
            struct.pack_into("<HHII", data, entry, tag, 4, 1, value)
    path.write_bytes(data)


def test_huge_tiles_and_sizes_are_refused_before_they_are_decoded(tmp_path):
    path, pixels = tmp_path / "f.tif", _pixels(shape=(32, 32))
    for tag, value, code in ((322, 1 << 24, "tiff_kind"), (256, 1 << 22, "too_large")):
        tifffile.imwrite(path, pixels, tile=(16, 16), compression="zlib", byteorder="<")
        _with_entry(path, tag, value)
        assert _code(path) == code


def test_pages_that_go_round_in_circles_are_many(tmp_path):
    path = tmp_path / "f.tif"
    tifffile.imwrite(path, _pixels(), byteorder="<", metadata=None)
    data = bytearray(path.read_bytes())
    (start,) = struct.unpack_from("<I", data, 4)
    (number,) = struct.unpack_from("<H", data, start)
    struct.pack_into("<I", data, start + 2 + 12 * number, start)
    path.write_bytes(data)
    assert _code(path) == "frames"


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_damage_raises_nothing_but_rejections(tmp_path, suffix):
    path = tmp_path / f"f{suffix}"
    Image.fromarray(_pixels()).save(path)
    whole, rejected = path.read_bytes(), 0
    for seed in range(100):
        path.write_bytes(mutated(whole, np.random.default_rng(seed)))
        try:
            read_image_file(path)
        except RejectedFileError:
            rejected += 1
    assert rejected > 20  # at least those that were cut off


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_what_is_not_there_cannot_be_opened(tmp_path, suffix):
    assert _code(tmp_path / f"none{suffix}") == "unreadable"


def test_real_radiographs(real_radiographs):
    for path in sorted((real_radiographs / "chest").iterdir())[:2]:
        grey = read_image_file(path).pixels
        with Image.open(path) as image:
            np.testing.assert_array_equal(grey // 257, np.asarray(image.convert("L")))
