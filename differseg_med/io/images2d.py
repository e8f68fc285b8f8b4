"""Photographs and maps (PNG, JPEG, TIFF) as volumes of one slice, through Pillow."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import PathLike
from monai.data import ImageReader, MetaTensor
from monai.utils import ImageMetaKey, MetaKeys, ensure_tuple
from numpy.typing import NDArray
from PIL import Image, ImageOps

from differseg_med.errors import CaseError
from differseg_med.geometry import image_affine
from differseg_med.io.budget import check_pixels
from differseg_med.keys import NOTES

IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")

MIN_PIXELS = 8
"""Shortest side of a credible image."""

_CUT = ("Tag data larger than file", "Truncated File Read", "Corrupt EXIF data")
"""How Pillow's warnings of tags that lead behind the end of a file begin."""

FOREGROUNDS = ("white", "black")

#: Largest value by Pillow's mode; of mode F (float TIFF) the values stay as they are.
_SCALES = {"L": 255, "RGB": 255, "I;16": 65535, "I;16B": 65535, "I": 65535, "F": 1}


class PillowReader(ImageReader):
    """MONAI image reader for PNG, JPEG and TIFF: ``(C, H, W, 1)`` with C = 1 or 3, integers scaled to [0, 1].

    The EXIF orientation is applied, palettes become colours, transparent pixels black. The affine is that of
    `image_affine`.
    """

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Tell whether the file's ending is one of `IMAGES`."""
        return is_image(ensure_tuple(filename)[0])

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Image.Image:
        """Read one file.

        Raises:
            CaseError: for several pictures in one file, CMYK, hardly any or too many pixels, a TIFF that is cut short,
                or a PNG whose pixels do not have their checksum.
        """
        path = Path(str(ensure_tuple(data)[0]))
        with _said(path) as notes, Image.open(path) as image:
            if image.format == "PNG":
                _check_png(path)
            frames = getattr(image, "n_frames", 1)
            if frames > 1:
                raise CaseError(
                    "the file holds several images (an animation or pages)",
                    file=path,
                    expected="one",
                    found=frames,
                    remedy="Save each as a file and a row of its own.",
                )
            if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
                raise CaseError(
                    "colours for print",
                    file=path,
                    expected="grey or RGB",
                    found=image.mode,
                    remedy="Convert the file to RGB.",
                )
            check_pixels(path, *image.size)
            if min(image.size) < MIN_PIXELS:
                raise CaseError(
                    "the image has hardly any pixels",
                    file=path,
                    expected=f"at least {MIN_PIXELS} x {MIN_PIXELS}",
                    found=f"{image.height} x {image.width}",
                )
            picture = _plain(ImageOps.exif_transpose(image))
        picture.info[NOTES] = notes
        return picture

    def get_data(self, img: Image.Image) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Return the pixels ``(C, H, W, 1)`` and the affine."""
        pixels = np.asarray(img)
        array = (pixels / np.float32(_SCALES[img.mode])).astype(np.float32, copy=False).reshape(*pixels.shape[:2], -1)
        affine = image_affine(*pixels.shape[:2])
        meta: dict[str, Any] = {
            MetaKeys.AFFINE: affine,
            MetaKeys.ORIGINAL_AFFINE: affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.asarray((*pixels.shape[:2], 1)),
            MetaKeys.SPACE: "RAS",
            MetaKeys.ORIGINAL_CHANNEL_DIM: 0,
        }
        if notes := img.info.get(NOTES):
            meta[NOTES] = notes
        return np.moveaxis(array, -1, 0)[..., np.newaxis], meta


@contextmanager
def _said(path: Path) -> Iterator[list[str]]:
    """What Pillow warns of, in a list at the end instead of on the terminal.

    Raises:
        CaseError: for a TIFF whose tags lead behind its end: Pillow goes on without them.
    """
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        yield notes
    texts = dict.fromkeys(str(warning.message).strip().split("\n")[0] for warning in said)
    if path.name.lower().endswith((".tif", ".tiff")) and any(text.startswith(_CUT) for text in texts):
        raise _damaged(path, next(iter(texts)))
    notes += [f"what stands beside the pixels is damaged or unusual ({text})" for text in texts]


def _check_png(path: Path) -> None:
    """Hold the pixels of a PNG against their checksums, which Pillow does not look at.

    zlib's own checksum is looked at behind the last pixel only, where one flipped bit can keep it from being reached.
    What is cut short is left to Pillow.

    Raises:
        CaseError: if a chunk of pixels (IDAT) has another CRC (PNG specification, 5.3).
    """
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
            length = int.from_bytes(head[:4], "big")
            if head[4:] != b"IDAT":
                file.seek(length + 4, 1)
                continue
            data, crc = file.read(length), file.read(4)
            if len(crc) == 4 and zlib.crc32(data, zlib.crc32(b"IDAT")) != int.from_bytes(crc, "big"):
                raise _damaged(path, "pixels that do not have their checksum")


def _damaged(path: Path, found: str) -> CaseError:
    return CaseError(
        "the file cannot be read; it is damaged, cut short or not an image",
        file=path,
        found=found,
        remedy="Copy or convert it again from the source.",
    )


def is_image(path: PathLike) -> bool:
    """Tell whether the ending is that of a PNG, JPEG or TIFF."""
    return str(path).lower().endswith(IMAGES)


def is_image2d(volume: MetaTensor) -> bool:
    """Tell whether a volume comes from a PNG, JPEG or TIFF."""
    return is_image(filename(volume))


def split_foreground(cell: Path) -> tuple[Path, str | None]:
    """A cell ``PATH::white`` or ``PATH::black`` of a cohort table as the path of a picture and what is 1 in it."""
    path, _, foreground = str(cell).rpartition("::")
    return (Path(path), foreground) if foreground in FOREGROUNDS and is_image(path) else (cell, None)


def as_mask(volume: MetaTensor, foreground: str = "white") -> MetaTensor:
    """A picture of a mask ``(C, H, W, 1)`` in [0, 1] as 0/1 ``(1, H, W, 1)``.

    Two values, one of them 0, are taken as they are (0/1, 0/255, a palette); of more values, such as the grey edges
    that JPEG leaves, those above one half are foreground.

    Args:
        volume: as `PillowReader` gives it.
        foreground: ``white`` or ``black``: which of both is 1.

    Raises:
        CaseError: if the picture is not black and white.
    """
    grey = luminance(volume)
    values = grey.unique()
    if len(values) <= 2 and (len(values) == 1 or not bool(values[0])):
        mask = grey > 0
    elif values[0] < 0.25 and values[-1] > 0.75:
        mask = grey > 0.5
    else:
        raise CaseError(
            "the mask is not black and white",
            file=filename(volume),
            expected="0 and one other value, or black and white",
            found=f"{len(values)} grey values from {values[0]:.3g} to {values[-1]:.3g} of 1",
            remedy="Save it as an image of two values.",
        )
    return MetaTensor((~mask if foreground == "black" else mask).float(), meta=volume.meta)


def filename(volume: MetaTensor) -> str:
    """The file that a volume comes from."""
    return str(volume.meta.get(ImageMetaKey.FILENAME_OR_OBJ, ""))


def luminance(volume: torch.Tensor) -> torch.Tensor:
    """Brightness ``(1, ...)`` of a picture ``(C, ...)``, ITU-R 601 as in Pillow."""
    if volume.shape[0] == 1:
        return volume
    weights = torch.tensor((0.299, 0.587, 0.114)).view(-1, *[1] * (volume.ndim - 1))
    return (volume * weights).sum(dim=0, keepdim=True)


def _plain(image: Image.Image) -> Image.Image:
    """One of the modes in `_SCALES`, fully read."""
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image).convert("RGB")
    elif image.mode in ("1", "P"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    image.load()
    return image
