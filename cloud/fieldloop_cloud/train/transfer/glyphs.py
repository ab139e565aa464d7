"""A source task without a download: letters in many fonts, rendered, bent and blurred.

The fonts ship with matplotlib (DejaVu, STIX, Computer Modern). Digits are left out: a backbone that
has learned on letters has never seen the digits it is later shown. Letters whose two cases differ
in size only are one class, as in EMNIST (Cohen et al., 2017), because every glyph is stretched to
the same box.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from fieldloop.errors import ConfigError, EnvironmentFaultError
from fieldloop.signature import ImageSpec
from fieldloop_cloud.data.dataset import Dataset

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"
"""37 classes; the other small letters look like their capitals."""

FONTS = (
    *(
        f"DejaVu{name}.ttf"
        for name in (
            "Sans",
            "Sans-Bold",
            "Sans-Oblique",
            "Sans-BoldOblique",
            "SansMono",
            "SansMono-Bold",
            "SansMono-Oblique",
            "SansMono-BoldOblique",
            "Serif",
            "Serif-Bold",
            "Serif-Italic",
            "Serif-BoldItalic",
        )
    ),
    *(f"STIXGeneral{name}.ttf" for name in ("", "Bol", "BolIta", "Italic")),
    *(f"cm{name}10.ttf" for name in ("b", "r", "ss", "ti", "tt")),
)
"""Fonts with Latin letters among those that matplotlib brings."""

_FINE = 4
"""Glyphs are drawn this many times finer than the picture and averaged down."""

_MIN_SIDE = 8
_POINTS = 64


def glyphs(
    count: int, *, side: int = 8, characters: str = LETTERS, seed: int = 0, name: str = "glyphs"
) -> Dataset:
    """Render a data set of letters, white on black.

    Args:
        count: Pictures, spread evenly over characters.
        side: Height and width in pixels.
        characters: The classes, one character each.
        seed: Of fonts, distortions and order.
        name: The data set's name.

    Returns:
        An image classification set; `X` is (count, side, side, 1) in 0 … 1.

    Raises:
        ConfigError: Too small pictures, too few of them, or a character twice.
        EnvironmentFaultError: matplotlib's fonts are not installed.
    """
    _check(count, side, characters)
    random = np.random.default_rng(seed)
    masks = _masks(characters)
    y = random.permutation(np.arange(count) % len(characters))
    X = np.empty((count, side, side, 1), dtype=np.float32)
    for row, index in enumerate(y):
        drawn = masks[index]
        X[row, :, :, 0] = _distorted(drawn[random.integers(len(drawn))], side, random)
    return Dataset(
        name=name,
        kind="image",
        task="classification",
        X=X,
        y=y.astype(np.int64),
        labels=tuple(characters),
        image=ImageSpec(height=side, width=side, channels=1, max_value=255.0, scale=1.0 / 255.0),
        notes=(f"rendered from {len(FONTS)} fonts, seed {seed}",),
    )


def _check(count: int, side: int, characters: str) -> None:
    if side < _MIN_SIDE:
        raise ConfigError(
            f"letters cannot be told apart at {side} x {side} pixels",
            where="side",
            advice=f"Use at least {_MIN_SIDE}.",
        )
    if len(set(characters)) != len(characters) or len(characters) < 2:  # noqa: PLR2004 - a choice needs two
        raise ConfigError(
            "classes are two or more different characters",
            where="characters",
            advice="Name each character once.",
        )
    if count < len(characters):
        raise ConfigError(
            f"{count} pictures do not show {len(characters)} characters",
            where="count",
            advice="Render more.",
        )


def font_directory() -> Path:
    """Return where matplotlib keeps its fonts.

    Raises:
        EnvironmentFaultError: They are not there.
    """
    import matplotlib as mpl  # noqa: PLC0415 - slow to import, needed only here

    path = Path(mpl.get_data_path()) / "fonts" / "ttf"
    missing = [font for font in FONTS if not (path / font).exists()]
    if missing:
        raise EnvironmentFaultError(
            f"fonts are missing: {', '.join(missing[:3])}",
            where=str(path),
            advice="Install matplotlib again.",
        )
    return path


def _masks(characters: str) -> list[list[Image.Image]]:
    """Return for each character its picture in every font, cropped to its box."""
    folder = font_directory()
    fonts = [ImageFont.truetype(str(folder / font), _POINTS) for font in FONTS]
    return [[_mask(font, character) for font in fonts] for character in characters]


def _mask(font: ImageFont.FreeTypeFont, character: str) -> Image.Image:
    canvas = Image.new("L", (3 * _POINTS, 3 * _POINTS))
    ImageDraw.Draw(canvas).text((_POINTS, _POINTS), character, fill=255, font=font)
    box = canvas.getbbox()
    if box is None:
        raise ConfigError(
            f"a font has no picture of {character!r}",
            where="characters",
            advice="Use letters and digits.",
        )
    return canvas.crop(box)


def _distorted(mask: Image.Image, side: int, random: np.random.Generator) -> NDArray[np.float32]:
    """Return a glyph slanted, turned, stretched, thicker or thinner, as (side, side) in 0 … 1."""
    fine = _FINE * side
    height = fine * random.uniform(0.8, 1.0)
    width = height * np.clip(mask.width / mask.height * random.uniform(0.7, 1.2), 0.25, 0.85)
    turn, slant = np.deg2rad(random.normal(0.0, 8.0)), random.normal(0.0, 0.15)
    forward = (
        np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        @ np.array([[1.0, slant], [0.0, 1.0]])
        @ np.diag([width / mask.width, height / mask.height])
    )
    back = np.linalg.inv(forward)
    centre = np.array([fine, fine]) / 2 + random.normal(0.0, 0.02 * fine, 2)
    shift = np.array([mask.width, mask.height]) / 2 - back @ centre
    affine = (back[0, 0], back[0, 1], shift[0], back[1, 0], back[1, 1], shift[1])
    drawn = mask.transform(
        (fine, fine), Image.Transform.AFFINE, affine, resample=Image.Resampling.BILINEAR
    )
    # Blurred and cut at a random level: strokes of another thickness, as from another pen.
    soft = np.asarray(drawn.filter(ImageFilter.GaussianBlur(0.06 * fine)), dtype=np.float32)
    level = random.uniform(0.3, 0.65) * max(float(soft.max()), 1.0)
    bold = (soft > level).astype(np.float32)
    blocks = bold.reshape(side, _FINE, side, _FINE).mean(axis=(1, 3))
    picture: NDArray[np.float32] = (blocks * random.uniform(0.75, 1.0)).astype(np.float32)
    return picture
