"""Image files to uint8 arrays of one size, the same for every data set."""

import errno
import os
import stat
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.TiffImagePlugin import BITSPERSAMPLE, TiffImageFile

from src.common.errors import UserError

Pixels = npt.NDArray[np.uint8]

# Named, because Pillow's reader for EPS files starts another program; nor are documents, videos,
# icons, sources of drawings and arrays what people train on.
_FORMATS = (
    *("JPEG", "PNG", "BMP", "DIB", "GIF", "PPM", "TIFF", "WEBP", "AVIF", "JPEG2000"),
    *("TGA", "PCX", "SGI", "SUN", "QOI"),
)
# All that Pillow raised over 15,000 damaged files of these formats, and what its source names.
UNREADABLE = (
    RuntimeError,  # AVIF's
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)
# Of a disk, a network or a machine that is short of something, never of a damaged image.
_PASSING = {
    *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE),
    *(errno.ENFILE, errno.ENOMEM, errno.EAGAIN),
}
_CHUNK = 512
_LARGEST = 4096  # pixels; twenty times what any method here was published for


@cache
def image_suffixes() -> frozenset[str]:
    """Suffixes of the image files that the Pillow at hand opens, in lower case, with the dot."""
    Image.init()
    known = Image.registered_extensions()
    # An MPO is a JPEG with more pictures behind it, and is opened as one.
    return frozenset(suffix for suffix, name in known.items() if name in (*_FORMATS, "MPO"))


@dataclass(frozen=True)
class Geometry:
    """How an image becomes a square.

    Attributes:
        size: Height and width of the result, pixels.
        shorter_side: Resize the shorter side to this many pixels, then cut out the centre;
            ``None``: resize straight to the square, whatever the aspect ratio.
    """

    size: int
    shorter_side: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.size <= _LARGEST:
            raise UserError(
                f"Expected `image_size` from 1 to {_LARGEST} pixels, but got {self.size}"
            )

    def apply(self, image: Image.Image) -> Image.Image:
        """Resize (bilinear, antialiased) and crop; sizes are rounded as torchvision does."""
        square = (self.size, self.size)
        if self.shorter_side is None:
            return (
                image if image.size == square else image.resize(square, Image.Resampling.BILINEAR)
            )
        width, height = image.size
        short = min(width, height)
        scaled = (self.shorter_side * width // short, self.shorter_side * height // short)
        if scaled != image.size:
            image = image.resize(scaled, Image.Resampling.BILINEAR)
        left, top = (round((side - self.size) / 2) for side in scaled)
        return image.crop((left, top, left + self.size, top + self.size))


def decode_image(path: str | Path, geometry: Geometry) -> Pixels:
    """Read one image as RGB ``[3, size, size]`` uint8.

    Grey, palette and CMYK images become RGB; 16-bit grey is scaled, not clipped; transparent
    images are laid over white, as viewers show them. Of several frames the first counts, and
    an EXIF rotation is ignored, as in torchvision.

    Raises:
        OSError: If the file is missing or damaged; some damage raises another of the errors
            that :func:`decode_files` catches.
        ValueError: If pixels have no defined range (floats, 32-bit integers).
    """
    with Image.open(path, formats=_FORMATS) as image:
        return pixels_of(image, geometry)


def pixels_of(image: Image.Image, geometry: Geometry) -> Pixels:
    """The same of an opened image."""
    square = geometry.apply(_to_rgb(image))
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def decode_files(paths: Sequence[str], geometry: Geometry) -> Iterator[Pixels | str]:
    """Decode in the order of ``paths``, several threads at a time.

    Yields:
        Pixels ``[3, size, size]`` uint8, or for an unreadable file the reason.

    Raises:
        UserError: If a file cannot be read for a reason that may pass.
    """

    def decode(path: str) -> Pixels | str:
        try:
            require_regular(path)
            return decode_image(path, geometry)
        except UNREADABLE as error:
            refuse_passing(error, path)
            return f"{type(error).__name__}: {error}"

    with ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as threads:
        # In chunks: `map` would otherwise hold every decoded image that is not yet consumed.
        for start in range(0, len(paths), _CHUNK):
            yield from threads.map(decode, paths[start : start + _CHUNK])


def refuse_passing(error: Exception, path: str | Path) -> None:
    """Refuse to take an error that may pass for a property of the image.

    Raises:
        UserError: If it is one of the disk, the network or the machine.
    """
    if isinstance(error, OSError) and error.errno in _PASSING:
        # No OSError: it would be taken for one of the cache that is being written.
        raise UserError(
            f"Cannot read '{path}' ({error.strerror}), which may pass: run again, or remove the "
            "image"
        ) from error


def require_regular(path: str | Path) -> None:
    """Refuse what may never end when it is read: a pipe or a device.

    Raises:
        OSError: If there is no regular file, also behind a link.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "no regular file", str(path))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = _from_16_bit(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined range; store 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if _has_32_bits(image) or values.min() < 0 or values.max() > 65535:
        raise ValueError("32-bit integer pixels have no defined range; store 8 or 16 bits")
    # Pillow's own conversion clips at 255; 65535 / 257 = 255.
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _has_32_bits(image: Image.Image) -> bool:
    """Whether a TIFF says so; of other images the values tell."""
    return isinstance(image, TiffImageFile) and 32 in image.tag_v2.get(BITSPERSAMPLE, ())
