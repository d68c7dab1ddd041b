"""Image edges that a header declares invalid: display shutters and pixel padding.

Shapes and attributes follow PS3.3 C.7.6.11 (Display Shutter) and C.7.5.1.1.2 (Pixel Padding).
Rows and columns in the header count from 1.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset

MARGIN = 0.07
"""Largest share of a side outside the outline at each edge; the fracture lies further inside."""


@dataclass(frozen=True)
class Outline:
    """A valid region.

    Attributes:
        kind: Kind of region: 'RECTANGULAR', 'CIRCULAR', 'POLYGONAL', or 'PADDING' around a
            polygon.
        points: Rows and columns of the corners (two opposite ones for a rectangle), or the centre
            and radius of a circle, in pixels counted from 1.
        inside: Mask of the region.
    """

    kind: str
    points: list[int]
    inside: Bool[np.ndarray, "height width"]


def draw_outline(rng: np.random.Generator, kind: str, shape: tuple[int, int]) -> Outline | None:
    """Draws a region that excludes at most a margin or, for a circle, the corners.

    Args:
        rng: Source of randomness.
        kind: Kind of region as in `Outline`, or 'none'.
        shape: Height and width of the image, pixels.

    Returns:
        The region, None for the kind 'none': the whole image is valid.
    """
    if kind == "none":
        return None
    height, width = shape
    picture = Image.new("1", (width, height))
    pen = ImageDraw.Draw(picture)
    if kind == "CIRCULAR":
        row, column = (height + 1) // 2, (width + 1) // 2
        radius = round(rng.uniform(0.44, 0.49) * np.hypot(height, width))
        pen.circle((column - 1, row - 1), radius, fill=1)
        points = [row, column, radius]
    else:
        near = 1 + (rng.uniform(0.0, MARGIN, (4, 2)) * shape).astype(int)
        far = np.array(shape) + 1 - near
        if kind == "RECTANGULAR":
            points = [*near[0], *far[1]]
            corners = [(near[0, 0], near[0, 1]), (far[1, 0], far[1, 1])]
            pen.rectangle([(int(c) - 1, int(r) - 1) for r, c in corners], fill=1)
        else:
            corners = [
                (near[0, 0], near[0, 1]),
                (near[1, 0], far[1, 1]),
                (far[2, 0], far[2, 1]),
                (far[3, 0], near[3, 1]),
            ]
            points = [value for corner in corners for value in corner]
            pen.polygon([(int(c) - 1, int(r) - 1) for r, c in corners], fill=1)
    return Outline(kind, [int(value) for value in points], np.asarray(picture))


def declare_shutter(ds: Dataset, outline: Outline) -> None:
    """Adds the attributes of a display shutter to a header."""
    ds.ShutterShape = outline.kind
    if outline.kind == "RECTANGULAR":
        upper, left, lower, right = outline.points
        ds.ShutterUpperHorizontalEdge, ds.ShutterLowerHorizontalEdge = upper, lower
        ds.ShutterLeftVerticalEdge, ds.ShutterRightVerticalEdge = left, right
    elif outline.kind == "CIRCULAR":
        ds.CenterOfCircularShutter = outline.points[:2]
        ds.RadiusOfCircularShutter = outline.points[2]
    else:
        ds.VerticesOfThePolygonalShutter = outline.points
    ds.ShutterPresentationValue = 0
