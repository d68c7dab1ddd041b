import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image, ImageOps

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
    assert picture.source == Source(
        syntax="png" if suffix == ".png" else "tiff", bits=8, voi="stored"
    )
    assert (picture.spacing_mm, picture.spacing_source) == (0.0, "unknown")
    assert (picture.crop, picture.instance) == ((0, 0, 31, 44), "")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_kept(tmp_path, suffix):
    pixels, path = _pixels(np.uint16), tmp_path / f"f{suffix}"
    Image.fromarray(pixels).save(path)
    np.testing.assert_array_equal(read_image_file(path).pixels, pixels)


def _twelve_bits():
    """Values of a 12-bit detector, 1000 to 3000."""
    y, x = np.mgrid[:62, :88]
    return (2000 + 500 * np.sin(y / 9) + 500 * np.cos(x / 11)).round().astype(np.uint16)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_twelve_bits_are_spread_whatever_a_hot_pixel_says(tmp_path, suffix):
    pixels, path = _twelve_bits(), tmp_path / f"f{suffix}"
    Image.fromarray(pixels).save(path)
    picture = read_image_file(path)
    expected = (pixels - 1000.0) / 2000 * 65535
    np.testing.assert_allclose(picture.pixels, expected, atol=100)
    assert picture.source.voi == "range" and picture.source.limits[-1] == pixels.max()
    pixels[20, 20] = 65_535
    Image.fromarray(pixels).save(path)
    assert np.median(read_image_file(path).pixels) > 20_000


def test_stated_bits_are_believed_where_the_values_fit(tmp_path):
    pixels, path = _twelve_bits(), tmp_path / "f.png"
    data = imagecodecs.png_encode(pixels)
    stated = struct.pack(">I", 1) + b"sBIT\x0c" + struct.pack(">I", zlib.crc32(b"sBIT\x0c"))
    path.write_bytes(data[:33] + stated + data[33:])
    picture = read_image_file(path)
    np.testing.assert_array_equal(picture.pixels, np.round(pixels / 4095 * 65535))
    assert (picture.source.voi, picture.source.bits) == ("stored", 12)
    data = imagecodecs.png_encode(pixels << 4)  # as the standard of PNG demands
    path.write_bytes(data[:33] + stated + data[33:])
    np.testing.assert_array_equal(read_image_file(path).pixels, pixels << 4)
    assert read_image_file(path).source.bits == 12


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


@pytest.mark.parametrize("kind", ["png", "tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [2, 3, 4])
def test_all_bits_of_all_channels_are_kept(tmp_path, kind, dtype, channels):
    grey = _pixels(dtype)
    samples = np.stack([grey] * 3 if channels > 2 else [grey], -1)
    if channels in (2, 4):
        samples = np.append(samples, np.full((31, 44, 1), np.iinfo(dtype).max, dtype), -1)
    path = tmp_path / f"f.{kind}"
    if kind == "png":
        path.write_bytes(imagecodecs.png_encode(samples))
    else:
        extra = {"extrasamples": ["unassalpha"]} if channels in (2, 4) else {}
        photometric = "rgb" if channels > 2 else "minisblack"
        planar = {"planarconfig": "contig"}
        tifffile.imwrite(path, samples, photometric=photometric, **planar, **extra)
    scale = 257 if dtype == np.uint8 else 1
    np.testing.assert_array_equal(read_image_file(path).pixels, grey * np.uint16(scale))


def test_channels_in_separate_planes(tmp_path):
    planes = np.stack([_pixels(np.uint16)] * 3)
    tifffile.imwrite(tmp_path / "f.tif", planes, photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_image_file(tmp_path / "f.tif").pixels, planes[0])


def test_nearly_equal_channels_are_grey(tmp_path):
    """Channels that differ by 8 levels are grey, those that differ by 9 at one pixel are not."""
    grey, path = _pixels(), tmp_path / "f.png"
    samples = np.stack([grey] * 3, -1).astype(int)
    samples[..., 2] = np.clip(samples[..., 2] + 8, 0, 255)
    Image.fromarray(samples.astype(np.uint8)).save(path)
    expected = np.floor(samples.mean(-1) + 0.5)
    np.testing.assert_array_equal(read_image_file(path).pixels, expected * 257)
    samples[5, 5] = 100, 100, 109
    Image.fromarray(samples.astype(np.uint8)).save(path)
    assert _code(path) == "not_grey"
    path.write_bytes(imagecodecs.png_encode((samples * 257).astype(np.uint16)))
    assert _code(path) == "not_grey"


def test_colour_is_rejected(tmp_path):
    Image.fromarray(_pixels(shape=(31, 44, 3))).save(tmp_path / "f.png")
    assert _code(tmp_path / "f.png") == "not_grey"


def _oriented(path, pixels, orientation):
    """Writes a file whose EXIF data or TIFF header state an orientation."""
    if path.suffix == ".tif":
        tifffile.imwrite(path, pixels, extratags=[(274, 3, 1, orientation, True)])
        return
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(pixels).save(path, exif=exif, quality=95)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
@pytest.mark.parametrize("orientation", range(9))
def test_pictures_are_turned_and_mirrored(tmp_path, suffix, orientation):
    y, x = np.mgrid[:31, :44]
    path = tmp_path / f"f{suffix}"
    _oriented(path, (2 * x + 5 * y).astype(np.uint8), orientation)
    # Pillow does not turn every TIFF alike, so its truth is that of a PNG.
    truth = path if suffix != ".tif" else tmp_path / "truth.png"
    _oriented(truth, (2 * x + 5 * y).astype(np.uint8), orientation)
    with Image.open(truth) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert expected.shape == ((44, 31) if orientation > 4 else (31, 44))
    np.testing.assert_array_equal(read_image_file(path).pixels // 257, expected)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_unclear_orientations_are_refused(tmp_path, suffix):
    _oriented(tmp_path / f"f{suffix}", _pixels(), 9)
    assert _code(tmp_path / f"f{suffix}") == "orientation"


def test_damaged_exif_data_are_refused(tmp_path):
    Image.fromarray(_pixels()).save(tmp_path / "f.jpg", exif=b"Exif\0\0no TIFF header")
    assert _code(tmp_path / "f.jpg") == "orientation"


def test_palettes_are_looked_up(tmp_path):
    """The palette is in descending order, so that indices and grey values differ."""
    indices = _pixels()
    levels = np.arange(255, -1, -1, dtype=np.uint8)
    image = Image.fromarray(indices, "L").convert("L")
    image.putpalette(np.repeat(levels, 3).tobytes())
    image.save(tmp_path / "f.png")
    np.testing.assert_array_equal(
        read_image_file(tmp_path / "f.png").pixels, levels[indices] * np.uint16(257)
    )
    for scale in (1, 256, 257):  # of 16 bits in a TIFF's palette; old writers fill the lower 8
        colours = np.stack([levels * np.uint16(scale)] * 3)
        tifffile.imwrite(tmp_path / "f.tif", indices, photometric="palette", colormap=colours)
        grey = read_image_file(tmp_path / "f.tif").pixels
        factor = np.uint16(257 if scale == 1 else scale)
        np.testing.assert_array_equal(grey, levels[indices] * factor)
    colours[0] //= 2
    tifffile.imwrite(tmp_path / "f.tif", indices, photometric="palette", colormap=colours)
    assert _code(tmp_path / "f.tif") == "not_grey"


def test_inexact_colour_spaces_are_refused(tmp_path):
    grey = Image.fromarray(_pixels())
    grey.convert("CMYK").save(tmp_path / "f.jpg")
    assert _code(tmp_path / "f.jpg") == "colour_space"
    inks = np.stack([_pixels()] * 4, -1)
    tifffile.imwrite(tmp_path / "f.tif", inks, photometric="separated")
    assert _code(tmp_path / "f.tif") == "colour_space"
    grey.convert("RGB").convert("LAB").save(tmp_path / "f.tif")
    assert _code(tmp_path / "f.tif") == "colour_space"


def test_transparent_pictures_are_refused(tmp_path):
    grey = Image.fromarray(_pixels())
    veiled = grey.convert("LA")
    veiled.putpixel((3, 4), (90, 254))
    veiled.save(tmp_path / "f.png")
    assert _code(tmp_path / "f.png") == "transparent"
    grey.save(tmp_path / "f.png", transparency=int(_pixels()[0, 0]))
    assert _code(tmp_path / "f.png") == "transparent"


def test_the_content_decides_on_the_format(tmp_path):
    Image.fromarray(_pixels()).save(tmp_path / "f.png", "TIFF")
    picture = read_image_file(tmp_path / "f.png")
    np.testing.assert_array_equal(picture.pixels, _pixels() * np.uint16(257))
    assert picture.source.syntax == "tiff"
    for suffix in (".jpg", ".jpeg", ".JPG"):
        Image.fromarray(_pixels()).save(tmp_path / f"g{suffix}")
        assert read_image_file(tmp_path / f"g{suffix}").source.syntax == "jpeg"


def test_animated_pictures_are_refused(tmp_path):
    frames = [Image.fromarray(_pixels() // n) for n in (1, 2)]
    frames[0].save(tmp_path / "f.png", save_all=True, append_images=frames[1:])
    assert _code(tmp_path / "f.png") == "frames"


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
    Image.fromarray(_pixels()).save(tmp_path / "f.jpg")
    jpeg = bytearray((tmp_path / "f.jpg").read_bytes())
    struct.pack_into(">HH", jpeg, jpeg.index(b"\xff\xc0") + 5, side, side)
    (tmp_path / "f.jpg").write_bytes(jpeg)
    assert _code(tmp_path / "f.jpg") == "too_large"

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
    for kind in ("EPS", "GIF", "BMP", "PPM"):
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
