"""Folders of images that mean harm; each writer is named for what it changes."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from tests.chaos.images import picture


def png_of_declared_size(width: int, height: int) -> bytes:
    """A few bytes that say they are huge."""

    def chunk(name: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _first(root: Path) -> Path:
    return root / "train" / "cat" / "0.png"


def image_is_fifo(root: Path) -> None:
    _first(root).unlink()
    os.mkfifo(_first(root))


def image_is_endless(root: Path) -> None:
    (root / "train" / "cat" / "z.png").symlink_to("/dev/zero")


def image_is_full_device(root: Path) -> None:
    (root / "train" / "cat" / "z.png").symlink_to("/dev/full")


def folder_links_to_itself(root: Path) -> None:
    (root / "train" / "cat" / "again").symlink_to(root / "train" / "cat")


def root_links_to_itself(root: Path) -> None:
    (root / "train" / "more").symlink_to(root)


def image_declares_huge_size(root: Path) -> None:
    _first(root).write_bytes(png_of_declared_size(60000, 60000))


def image_declares_large_size(root: Path) -> None:
    _first(root).write_bytes(png_of_declared_size(12000, 12000))


def image_declares_no_size(root: Path) -> None:
    _first(root).write_bytes(png_of_declared_size(0, 0))


def image_is_truncated(root: Path) -> None:
    _first(root).write_bytes(_first(root).read_bytes()[:200])


def image_is_text(root: Path) -> None:
    _first(root).write_text("no image")


def image_is_mislabelled(root: Path) -> None:
    picture(0).save(_first(root), format="JPEG")


def image_is_empty(root: Path) -> None:
    _first(root).write_bytes(b"")


def image_is_folder(root: Path) -> None:
    _first(root).unlink()
    _first(root).mkdir()


def odd_image_names(root: Path) -> None:
    for name in ("a\nb.png", "a b.png", "a'\"b.png", "n" * 250 + ".png", "猫.png"):
        picture(name).save(root / "train" / "cat" / name)


def image_name_is_not_utf8(root: Path) -> None:
    os.link(_first(root), os.fsencode(_first(root).parent) + b"/\xe9t\xe9.png")


def odd_class_names(root: Path) -> None:
    for name in ("a\nb", "a b'\"", "猫", "c" * 250, "[1,2]", "${x}"):
        for split in ("train", "test"):
            (root / split / name).mkdir()
            picture(name).save(root / split / name / f"{split}.png")


def class_name_is_not_utf8(root: Path) -> None:
    for split in ("train", "test"):
        name = os.fsencode(root / split) + b"/\xe9t\xe9"
        os.mkdir(name)
        picture(split).save(os.fsdecode(name) + "/0.png")


def class_is_empty(root: Path) -> None:
    (root / "train" / "zebra").mkdir()


def class_is_link_to_nowhere(root: Path) -> None:
    (root / "train" / "zebra").symlink_to("/nowhere")


FOLDERS: tuple[Callable[[Path], None], ...] = (
    image_is_fifo,
    image_is_endless,
    image_is_full_device,
    folder_links_to_itself,
    root_links_to_itself,
    image_declares_huge_size,
    image_declares_large_size,
    image_declares_no_size,
    image_is_truncated,
    image_is_text,
    image_is_mislabelled,
    image_is_empty,
    image_is_folder,
    odd_image_names,
    image_name_is_not_utf8,
    odd_class_names,
    class_name_is_not_utf8,
    class_is_empty,
    class_is_link_to_nowhere,
)
