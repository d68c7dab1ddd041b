"""Conversion of stored values to grey values for presentation.

The steps are those of the standard (PS3.3 C.11.1, C.11.2, C.7.6.3): stored values -> modality LUT
or rescale -> VOI LUT or window -> one inversion for MONOCHROME1 or Presentation LUT Shape INVERSE.
The result depends only on the stored value, so it is computed once for each possible value, in
float64, and looked up for each pixel. Without LUT and window, the picture's own range is shown; see
`robust_range`.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Integer, Shaped, UInt16
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from scipy.special import expit

from femur_jax.ingest.rejection import RejectedFileError, require

_LEAST_WIDTH = {"LINEAR": 1.0, "LINEAR_EXACT": 1e-6, "SIGMOID": 1e-6}
_TAIL = 0.005
"""Share of pixels at either end that may be defects of the detector or burnt-in letters."""
_ROOM = 0.25
"""Distance from the last pixel outside the tail to the limit, as a share of the range between."""
_KNEE = 1 / 32
"""Share of the grey levels that values beyond a limit are pressed into."""
_COUNTED = 1_000_000
"""Number of pixels that suffice to find the tails."""


class Range(NamedTuple):
    """The range of a picture's values, in ascending order.

    Attributes:
        least: Least value of all.
        low: Lower limit of the values that are shown with full contrast.
        high: Upper limit of these values.
        greatest: Greatest value of all.
    """

    least: float
    low: float
    high: float
    greatest: float


def robust_range(
    values: Float64[np.ndarray, "values"], counts: Integer[np.ndarray, "values"]
) -> Range:
    """Finds limits that a few outliers, such as hot pixels or a burnt-in letter, do not move.

    A limit is the end of the range, but at most a quarter of the spread beyond the 0.5th or the
    99.5th percentile. docs/decisions.md has the measurements.

    Args:
        values: Values that a pixel may have.
        counts: Numbers of pixels with these values, at least one of them above 0.
    """
    values, counts = values[counts > 0], counts[counts > 0]
    order = np.argsort(values, kind="stable")
    values, share = values[order], np.cumsum(counts[order]) / counts.sum()
    least, first, last, greatest = (
        float(value) for value in values[[0, *np.searchsorted(share, (_TAIL, 1 - _TAIL)), -1]]
    )
    if first == last:  # nearly all pixels are equal, so there is no spread
        return Range(least, least, greatest, greatest)
    room = _ROOM * (last - first)
    return Range(least, max(least, first - room), min(greatest, last + room), greatest)


def stretch(values: Float64[np.ndarray, "values"], range_: Range) -> Float64[np.ndarray, "values"]:
    """Maps least..greatest to 0..1 in order, so that nothing is cut.

    The values between the limits get the whole of 0..1, but for 1/32 at an end where values lie
    beyond the limit.
    """
    knots = {range_.low: _KNEE, range_.high: 1 - _KNEE, range_.least: 0.0, range_.greatest: 1.0}
    return np.interp(values, sorted(knots), sorted(knots.values()))


def counted(seen: Shaped[np.ndarray, "..."], low: int, high: int) -> Integer[np.ndarray, "values"]:
    """Counts the pixels with each value from `low` to `high`.

    About a million pixels of a large picture are counted, and always its least and greatest value.
    """
    # An odd step is prime to most widths, so that pixels of all columns are counted.
    step = seen.size // _COUNTED | 1
    sample = seen.reshape(-1)[::step].astype(np.intp) - low
    counts = np.bincount(sample, minlength=high - low + 1)
    counts[[int(seen.min()) - low, int(seen.max()) - low]] += 1
    return counts


class Presentation(NamedTuple):
    """Grey values for presentation and where they come from.

    Attributes:
        grey: Grey values 0..65535, bone bright.
        hidden: Mask of padding and of pixels behind shutters, None where there are none.
        voi: Origin of the grey values: 'lut', 'window' or 'range'.
        limits: The ends and limits of a 'range'; see `Source.limits`.
    """

    grey: UInt16[np.ndarray, "height width"]
    hidden: Bool[np.ndarray, "height width"] | None
    voi: str
    limits: tuple[float, ...]


def presentation(stored: Shaped[np.ndarray, "height width"], dataset: Dataset) -> Presentation:
    """Applies all steps; padding and pixels behind shutters become black.

    Args:
        stored: Stored values within the range that the header's bits allow.
        dataset: Header of the file.

    Raises:
        RejectedFileError: A lookup table, window or shutter is unusable, everything is hidden, or
            all pixels are equal.
    """
    low, high = stored_range(dataset)
    hidden = _hidden(stored, dataset)
    seen = stored if hidden is None else stored[~hidden]
    require(seen.size > 0, "shutter")
    require(int(seen.min()) < int(seen.max()), "constant_image")
    with np.errstate(over="ignore", invalid="ignore"):  # values that are not finite are refused
        table, voi, limits = _table(low, high, seen, dataset)
    grey = _map(stored, low, table)
    shown = grey if hidden is None else grey[~hidden]
    require(int(shown.min()) < int(shown.max()), "blank")
    if hidden is not None:
        grey[hidden] = 0
    return Presentation(grey, hidden, voi, limits)


def _map(
    stored: Shaped[np.ndarray, "height width"], low: int, table: UInt16[np.ndarray, "values"]
) -> UInt16[np.ndarray, "height width"]:
    """Looks up a few rows at a time, so that the indices stay in the processor's cache."""
    grey = np.empty(stored.shape, np.uint16)
    whole = np.zeros(1 << 16, np.uint16)
    whole[np.arange(low, low + len(table))] = table  # negative values lie at the end
    indices = stored.view(f"u{stored.itemsize}")
    step = max(1, (1 << 15) // stored.shape[1])
    for top in range(0, len(stored), step):
        rows = slice(top, top + step)
        np.take(whole, indices[rows], out=grey[rows], mode="clip")  # faster; clips none
    return grey


def stored_range(dataset: Dataset) -> tuple[int, int]:
    """Least and greatest value that BitsStored and PixelRepresentation allow."""
    values = 1 << dataset.BitsStored
    return (-values // 2, values // 2 - 1) if dataset.PixelRepresentation else (0, values - 1)


def _table(
    low: int, high: int, seen: Shaped[np.ndarray, "..."], dataset: Dataset
) -> tuple[UInt16[np.ndarray, "values"], str, tuple[float, ...]]:
    """Grey values of the stored values from `low` to `high`, their origin and its limits."""
    values = np.arange(low, high + 1, dtype=np.float64)
    if sequence := dataset.get("ModalityLUTSequence"):
        values = _look_up(values, sequence[0], dataset)[0]
    else:
        slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
        require((slope is None) == (intercept in (None, "")), "rescale")  # half of it is lost
        values = values * float(1 if slope is None else slope) + float(intercept or 0)
        require(bool(np.isfinite(values).all()) and bool(np.ptp(values) > 0), "rescale")
    inverse = dataset.PhotometricInterpretation == "MONOCHROME1"
    if shape := dataset.get("PresentationLUTShape"):  # it replaces the photometric interpretation
        require(shape in ("IDENTITY", "INVERSE"), "presentation_lut")
        inverse = shape == "INVERSE"
    require(not dataset.get("PresentationLUTSequence"), "presentation_lut")
    limits: tuple[float, ...] = ()
    if sequence := dataset.get("VOILUTSequence"):
        entries, bits = _look_up(values, sequence[0], dataset, least=0.5)
        shown, voi = np.clip(entries / ((1 << bits) - 1), 0, 1), "lut"
    elif any(_first(dataset.get(f"Window{part}")) is not None for part in ("Center", "Width")):
        shown, voi = _apply_window(values, dataset), "window"
    else:
        own = robust_range(values, counted(seen, low, high))
        shown, voi = stretch(values, own), "range"
        limits = tuple(own[::-1] if inverse else own)
    require(bool(np.isfinite(shown).all()), "window")
    return np.round(65535 * (1 - shown if inverse else shown)).astype(np.uint16), voi, limits


def _first(value):
    return (value[0] if len(value) else None) if isinstance(value, MultiValue) else value


def _look_up(
    values: Float64[np.ndarray, "values"], item: Dataset, dataset: Dataset, least: float = 0.0
) -> tuple[Float64[np.ndarray, "values"], int]:
    """Applies a modality or VOI LUT (PS3.3 C.11.1.1, C.11.2.1.1); returns its bits as well.

    Some writers state more bits than the entries have, which blackens the picture. So the greatest
    entry must be at least the share `least` of what the bits allow.
    """
    descriptor, data = item.get_item("LUTDescriptor"), item.get_item("LUTData")
    order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
    try:
        entries, first, bits = np.frombuffer(descriptor.value, f"{order}u2").tolist()
        entries = entries or 65536
        if len(data.value) == 2 * entries:
            table = np.frombuffer(data.value, f"{order}u2")
        else:
            require(bits == 8 and len(data.value) == entries + entries % 2, "lookup_table")
            table = np.frombuffer(data.value, np.uint8)
            if order == ">" and data.VR == "OW":
                table = table.reshape(-1, 2)[:, ::-1].reshape(-1)
    except (AttributeError, TypeError, ValueError):
        raise RejectedFileError("lookup_table") from None
    # A picture needs 8 bits, and entries of more bits than stated would all be white.
    fits = 8 <= bits <= 16 and least * (1 << bits) <= int(table.max()) < 1 << bits
    require(fits, "lookup_table")
    # The first value is negative where the VR or the values to look up say so.
    if first >= 1 << 15 and (descriptor.VR == "SS" or values.min() < 0):
        first -= 1 << 16
    index = np.clip(np.round(values) - first, 0, entries - 1)
    return table[index.astype(np.int64)].astype(np.float64), bits


def _apply_window(
    values: Float64[np.ndarray, "values"], dataset: Dataset
) -> Float64[np.ndarray, "values"]:
    """Applies the first window of a header."""
    center, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    function = dataset.get("VOILUTFunction") or "LINEAR"
    if center is None or width is None or not width >= _LEAST_WIDTH.get(function, np.inf):
        raise RejectedFileError("window")
    return window(values, float(center), float(width), function)


def window(
    values: Float64[np.ndarray, "*values"], center: float, width: float, function: str
) -> Float64[np.ndarray, "*values"]:
    """Applies a VOI window (PS3.3 C.11.2.1.2 and C.11.2.1.3).

    Args:
        values: Values after the modality transformation.
        center: Value of Window Center.
        width: Value of Window Width, at least 1 for LINEAR, above 0 for the others.
        function: One of LINEAR, LINEAR_EXACT and SIGMOID.

    Returns:
        Values in [0, 1].
    """
    if function == "SIGMOID":
        return expit(4 * (values - center) / width)
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
        if width == 0:
            return (values > center).astype(np.float64)
    return np.clip((values - center) / width + 0.5, 0, 1)


def _hidden(
    stored: Shaped[np.ndarray, "height width"], dataset: Dataset
) -> Bool[np.ndarray, "height width"] | None:
    """Mask of pixels that are padding (PS3.3 C.7.5.1.1.2) or behind a shutter (C.7.6.11)."""
    hidden = None
    if (padding := dataset.get("PixelPaddingValue")) is not None:
        limit = dataset.get("PixelPaddingRangeLimit")
        # Some writers store both as unsigned values although the pixels are signed.
        ends = np.array([padding, padding if limit is None else limit])
        ends = (ends & 0xFFFF).astype(np.uint16).view(f"{stored.dtype.kind}2")
        hidden = (stored >= ends.min()) & (stored <= ends.max())
    if shapes := dataset.get("ShutterShape"):
        open_ = _shutter(stored.shape, [shapes] if isinstance(shapes, str) else shapes, dataset)
        hidden = ~open_ if hidden is None else hidden | ~open_
    return hidden if hidden is not None and hidden.any() else None


def _shutter(
    shape: tuple[int, int], names: list[str] | MultiValue, dataset: Dataset
) -> Bool[np.ndarray, "height width"]:
    """Mask of pixels where every shutter is open; rows and columns are counted from 1.

    A BITMAP shutter refers to an overlay, which is not read.
    """
    open_ = np.ones(shape, bool)
    rows, columns = np.ogrid[1 : shape[0] + 1, 1 : shape[1] + 1]
    try:
        if "RECTANGULAR" in names:  # the edges themselves are visible
            top, bottom = dataset.ShutterUpperHorizontalEdge, dataset.ShutterLowerHorizontalEdge
            left, right = dataset.ShutterLeftVerticalEdge, dataset.ShutterRightVerticalEdge
            open_ &= (top <= rows) & (rows <= bottom) & (left <= columns) & (columns <= right)
        if "CIRCULAR" in names:
            row, column = (int(n) for n in dataset.CenterOfCircularShutter)
            room = int(dataset.RadiusOfCircularShutter) ** 2 - (rows - row) ** 2
            open_ &= (columns - column) ** 2 <= room
        if "POLYGONAL" in names:
            corners = np.reshape(dataset.VerticesOfThePolygonalShutter, (-1, 2)) - 1
            mask = Image.new("1", (shape[1], shape[0]))
            ImageDraw.Draw(mask).polygon([(x, y) for y, x in corners.tolist()], fill=1)
            open_ &= np.asarray(mask)
    except (ArithmeticError, AttributeError, TypeError, ValueError):
        raise RejectedFileError("shutter") from None
    return open_
