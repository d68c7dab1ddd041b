"""DICOM files as the programs of dcmtk show them, another implementation of the standard."""

import shutil
import subprocess
from pathlib import Path

import imagecodecs
import numpy as np
from jaxtyping import UInt16

from femur_jax.ingest.dicom import Picture
from femur_jax.ingest.grey import Range, stretch

_PROGRAMS = ("dcm2img", "dcmj2pnm", "dcml2pnm")
"""Each decodes other transfer syntaxes; since dcmtk 3.6.9 the first decodes those of all."""


def programs() -> list[str]:
    """The paths of the installed programs."""
    return [path for name in _PROGRAMS if (path := shutil.which(name))]


def difference(path: Path, picture: Picture, seconds: float) -> float | None:
    """Compares a picture with dcmtk's, without padding and what shutters hide.

    dcmtk applies the same lookup table or window. Where there is none, it shows the range of
    `Source.limits`, and the values outside the limits are pressed together here. As many of the
    worst pixels are left out as `Source.clipped` counts, since dcmtk drops the upper bits of values
    beyond the stored range.

    Args:
        path: Path of the DICOM file.
        picture: The picture as the ingest reads it.
        seconds: Time that a program may take.

    Returns:
        The greatest difference in grey levels of 0..255, None where no program can show the file.
        Two pictures of different sizes differ by 255 levels.
    """
    theirs = _shown(path, _voi(picture), seconds)
    if theirs is None:
        return None
    ours = picture.pixels
    if theirs.shape != ours.shape:
        return 255.0
    if limits := picture.source.limits:
        ends = np.array(limits) - limits[0]
        table = stretch(np.linspace(0, 1, 1 << 16), Range(*(ends / ends[-1]).tolist()))
        theirs = np.round(65535 * table).astype(np.uint16)[theirs]
    apart = np.maximum(ours, theirs) - np.minimum(ours, theirs)
    if picture.hidden is not None:
        apart[picture.hidden] = 0
    last = apart.size - 1 - picture.source.clipped
    return int(np.partition(apart, last, axis=None)[last]) / 257


def _voi(picture: Picture) -> list[str]:
    """The options that choose the grey values' origin."""
    if limits := picture.source.limits:
        low, high = sorted((limits[0], limits[-1]))
        # A linear window runs from centre - 0.5 - (width - 1) / 2 (PS3.3 C.11.2.1.2).
        return ["--set-window", str((low + high + 1) / 2), str(high - low + 1)]
    return ["--use-voi-lut" if picture.source.voi == "lut" else "--use-window", "1"]


def _shown(path: Path, voi: list[str], seconds: float) -> UInt16[np.ndarray, "height width"] | None:
    for program in programs():
        command = [program, "--nointerlace", "--write-16-bit-png", *voi, str(path.absolute())]
        try:
            # Messages quote the header, so they are dropped.
            run = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=seconds
            )
        except subprocess.TimeoutExpired:
            continue
        if run.returncode == 0 and run.stdout:
            return imagecodecs.png_decode(run.stdout)
    return None
