import errno

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import v2

from src.common.errors import UserError
from src.dataset import decode
from src.dataset.decode import Geometry, decode_files, decode_image

SIZE = Geometry(8)


@pytest.fixture
def rgb():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))


def decoded(image, path, kind="PNG", **options):
    image.save(path, kind, **options)
    result = decode_image(path, SIZE)
    assert result.shape == (3, 8, 8)
    assert result.dtype == np.uint8
    assert result.flags.c_contiguous
    return result.transpose(1, 2, 0)


def test_rgb_is_kept(rgb, tmp_path):
    np.testing.assert_array_equal(decoded(rgb, tmp_path / "x"), np.asarray(rgb))


def test_grey_is_repeated_over_the_channels(rgb, tmp_path):
    grey = rgb.convert("L")
    expected = np.repeat(np.asarray(grey)[..., None], 3, axis=2)
    np.testing.assert_array_equal(decoded(grey, tmp_path / "x"), expected)


def test_a_palette_is_looked_up(rgb, tmp_path):
    palette = rgb.quantize(16)
    expected = np.asarray(palette.convert("RGB"))
    np.testing.assert_array_equal(decoded(palette, tmp_path / "x"), expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_and_not_clipped(kind, tmp_path):
    values = np.linspace(0, 65535, 64).reshape(8, 8).round()
    image = Image.fromarray(values.astype(np.uint16))
    expected = np.round(values / 257)
    np.testing.assert_array_equal(decoded(image, tmp_path / "x", kind)[..., 0], expected)


def test_cmyk_becomes_rgb(tmp_path):
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    result = decoded(red, tmp_path / "x", "JPEG")
    assert np.abs(result - np.array([255.0, 0, 0])).max() < 5


def test_transparency_is_laid_over_white(tmp_path):
    half = Image.new("RGBA", (8, 8), (100, 0, 0, 128))
    result = decoded(half, tmp_path / "x")
    expected = np.array([100, 0, 0]) * 128 / 255 + 255 * 127 / 255
    assert np.abs(result - expected).max() <= 1


def test_a_transparent_palette_entry_is_white(tmp_path):
    image = Image.new("P", (8, 8), 0)
    image.putpalette([10, 20, 30])
    assert (decoded(image, tmp_path / "x", transparency=0) == 255).all()


def test_floating_point_images_are_refused(tmp_path):
    Image.fromarray(np.zeros((8, 8), dtype=np.float32)).save(tmp_path / "x", "TIFF")
    with pytest.raises(ValueError, match="floating-point"):
        decode_image(tmp_path / "x", SIZE)


def test_integers_beyond_sixteen_bits_are_refused(tmp_path):
    Image.fromarray(np.full((8, 8), 70_000, dtype=np.int32)).save(tmp_path / "x", "TIFF")
    with pytest.raises(ValueError, match="32-bit"):
        decode_image(tmp_path / "x", SIZE)


@pytest.mark.parametrize("top", [1, 60_000])
def test_integers_of_thirty_two_bits_are_refused_in_any_range(top, tmp_path):
    Image.fromarray(np.full((8, 8), top, dtype=np.int32)).save(tmp_path / "x", "TIFF")
    with pytest.raises(ValueError, match="32-bit integer pixels have no defined range"):
        decode_image(tmp_path / "x", SIZE)


@pytest.mark.parametrize("sample_format", [1, 2])
def test_sixteen_bits_of_a_tiff_are_read_with_and_without_sign(sample_format, tmp_path):
    image = Image.fromarray(np.full((8, 8), 25_700, dtype=np.uint16))
    result = decoded(image, tmp_path / "x", "TIFF", tiffinfo={339: sample_format})
    assert (result == 100).all()


def test_sixteen_bits_of_a_pgm_are_read(tmp_path):
    (tmp_path / "x.pgm").write_bytes(b"P5 8 8 65535 " + np.full(64, 25_700, ">u2").tobytes())
    with Image.open(tmp_path / "x.pgm") as image:
        assert image.mode == "I"  # as of 32-bit TIFFs
    assert (decode_image(tmp_path / "x.pgm", SIZE) == 100).all()


def test_formats_whose_reader_starts_a_program_are_not_read(rgb, tmp_path):
    rgb.save(tmp_path / "x.jpg", "EPS")
    with pytest.raises(Image.UnidentifiedImageError):
        decode_image(tmp_path / "x.jpg", SIZE)


@pytest.mark.parametrize("size", [(31, 47), (64, 40), (300, 257), (20, 20)])
def test_the_centre_crop_is_torchvisions(size, tmp_path):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8))
    image.save(tmp_path / "x", "PNG")
    reference = v2.Compose([v2.Resize(32), v2.CenterCrop(28), v2.PILToTensor()])
    result = decode_image(tmp_path / "x", Geometry(28, shorter_side=32))
    np.testing.assert_array_equal(result, reference(image).numpy())


def test_the_squeezed_square_is_torchvisions(tmp_path):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 90, 3), dtype=np.uint8))
    image.save(tmp_path / "x", "PNG")
    reference = v2.Compose([v2.Resize([28, 28]), v2.PILToTensor()])
    result = decode_image(tmp_path / "x", Geometry(28))
    np.testing.assert_array_equal(result, reference(image).numpy())


@pytest.mark.parametrize("size", [0, -3, 4097, 10**9])
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises(UserError, match="`image_size` from 1 to 4096 pixels, but got"):
        Geometry(size)


def test_many_files_come_in_order_with_reasons_for_the_unreadable(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "_CHUNK", 2)
    paths = [str(tmp_path / f"{i}.png") for i in range(5)]
    for value, path in enumerate(paths):
        Image.new("L", (8, 8), value).save(path)
    (tmp_path / "3.png").write_bytes(b"no image")
    results = list(decode_files(paths, SIZE))
    assert isinstance(results[3], str)
    assert "UnidentifiedImageError" in results[3]
    assert [int(results[i].max()) for i in (0, 1, 2, 4)] == [0, 1, 2, 4]


def failing(error):
    def decode_image(_path, _geometry):
        raise error

    return decode_image


@pytest.mark.parametrize(
    "error",
    [
        TypeError("'IFDRational' object cannot be interpreted as an integer"),
        OSError("image file is truncated"),
        PermissionError(errno.EACCES, "Permission denied"),
    ],
)
def test_what_an_image_causes_is_a_reason(error, tmp_path, monkeypatch):
    (tmp_path / "x.tif").write_bytes(b"x")
    monkeypatch.setattr(decode, "decode_image", failing(error))
    (result,) = decode_files([str(tmp_path / "x.tif")], SIZE)
    assert result == f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("name", ["EIO", "ESTALE", "EMFILE", "ENOMEM"])
def test_what_may_pass_is_no_property_of_the_image(name, tmp_path, monkeypatch):
    (tmp_path / "x.png").write_bytes(b"x")
    error = OSError(getattr(errno, name), "gone for now")
    monkeypatch.setattr(decode, "decode_image", failing(error))
    with pytest.raises(UserError, match=r"x\.png' \(gone for now\), which may pass: run again"):
        list(decode_files([str(tmp_path / "x.png")], SIZE))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")  # beside its error
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_damaged_files_give_a_reason_and_never_another_error(kind, rgb, tmp_path):
    draw = np.random.default_rng(0)
    rgb.convert("P" if kind == "GIF" else "RGB").save(tmp_path / "whole", kind)
    whole = (tmp_path / "whole").read_bytes()
    paths = []
    for number in range(20):
        path = tmp_path / f"{number}"
        path.write_bytes(whole[: draw.integers(len(whole) // 2)])
        paths.append(str(path))
    assert all(isinstance(result, str) for result in decode_files(paths, SIZE))
