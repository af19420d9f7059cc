"""Sheets of pictures: rows of images under labelled columns, as one PNG file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.errors import HpoError

if TYPE_CHECKING:
    from torch import Tensor

LEAST_SIDE = 80  # of a picture on the sheet, in pixels; small ones are enlarged
MOST_SIDE = 160
GAP, MARGIN, TEXT, LINE = 6, 12, 13, 18
PAPER, INK, FAINT = (255, 255, 255), (20, 20, 20), (110, 110, 110)


@dataclass(frozen=True)
class Sheet:
    """What is drawn: a title, lines below it, and columns of images (rows, C, H, W) in [0, 1], one
    or three channels, each under its label. rows: a label for each row."""

    title: str
    lines: Sequence[str]
    columns: Sequence[tuple[str, Tensor]]
    rows: Sequence[str]


def save(sheet: Sheet, path: Path) -> None:
    """Draws a sheet into a PNG file. Raises HpoError where it cannot be written."""
    try:
        picture(sheet).save(path, format="PNG")
    except OSError as error:
        raise HpoError(
            f"{path}: {error.strerror or error}",
            hint="give another file with --out",
            code="unwritable",
        ) from None


def picture(sheet: Sheet) -> Any:
    """The sheet as an image of Pillow."""
    from PIL import Image, ImageDraw, ImageFont

    font, bold = (ImageFont.load_default(size) for size in (TEXT, TEXT + 3))
    height, width = _enlarged(sheet.columns[0][1])
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    left = MARGIN + max(int(measure.textlength(text, font=font)) for text in sheet.rows) + GAP
    across = left + len(sheet.columns) * (width + GAP) - GAP + MARGIN
    room = across - 2 * MARGIN
    above = [(text, INK, bold) for text in _wrapped(sheet.title, room, bold, measure)]
    for line in sheet.lines:
        above += [(text, FAINT, font) for text in _wrapped(line, room, font, measure)]
    heads = [_wrapped(label, width + GAP - 2, font, measure) for label, _ in sheet.columns]
    top = MARGIN + LINE * (len(above) + max(map(len, heads))) + GAP
    page = Image.new("RGB", (across, top + len(sheet.rows) * (height + GAP) + MARGIN - GAP), PAPER)
    pen = ImageDraw.Draw(page)
    for number, (text, ink, letters) in enumerate(above):
        pen.text((MARGIN, MARGIN - 2 + LINE * number), text, fill=ink, font=letters)
    for row, text in enumerate(sheet.rows):
        middle = top + row * (height + GAP) + height // 2
        pen.text((MARGIN, middle), text, fill=INK, font=font, anchor="lm")
    for place, (head, (_, images)) in enumerate(zip(heads, sheet.columns, strict=True)):
        x = left + place * (width + GAP)
        for number, text in enumerate(reversed(head), start=1):
            pen.text((x, top - GAP + 2 - LINE * number), text, fill=INK, font=font)
        for row, image in enumerate(images):
            page.paste(_pixels(image, (width, height)), (x, top + row * (height + GAP)))
    return page


def _enlarged(images: Tensor) -> tuple[int, int]:
    """Height and width on the sheet: a whole multiple of small images, large ones smaller."""
    height, width = images.shape[2:]
    side = max(height, width)
    factor = -(-LEAST_SIDE // side) if side < LEAST_SIDE else min(1.0, MOST_SIDE / side)
    return max(round(height * factor), 1), max(round(width * factor), 1)


def _pixels(image: Tensor, size: tuple[int, int]) -> Any:
    from PIL import Image

    colours = image.detach().cpu().float().clamp(0, 1).mul(255).round().byte()
    colours = colours.expand(3, -1, -1) if len(colours) == 1 else colours[:3]
    found = Image.fromarray(colours.permute(1, 2, 0).contiguous().numpy())
    shrinks = found.width > size[0]
    return found.resize(size, Image.Resampling.LANCZOS if shrinks else Image.Resampling.NEAREST)


def _wrapped(text: str, width: float, font: Any, measure: Any) -> list[str]:
    """The text in lines that are no wider than this, where its words allow it."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and measure.textlength(longer, font=font) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines or [""]
