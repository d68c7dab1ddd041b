"""The geometry of a cone beam."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Camera:
    """A point source and a flat detector in patient coordinates, mm.

    Attributes:
        source: The focal spot.
        centre: Middle of the detector.
        right: Unit vector along a row of the image.
        down: Unit vector along a column of the image.
        depth: Least and greatest distance of the bones from the source.
        magnification: Ratio of the source-to-detector to the source-to-bone distance.
    """

    source: Float[np.ndarray, "3"]
    centre: Float[np.ndarray, "3"]
    right: Float[np.ndarray, "3"]
    down: Float[np.ndarray, "3"]
    depth: tuple[float, float]
    magnification: float

    def pixel(self, point: Float[np.ndarray, "3"]) -> tuple[float, float]:
        """Position of a point in the image: mm to the right of and below the detector's middle."""
        normal = np.cross(self.right, self.down)
        ray = point - self.source
        hit = self.source + ray * (normal @ (self.centre - self.source)) / (normal @ ray)
        return float((hit - self.centre) @ self.right), float((hit - self.centre) @ self.down)


def aim(
    target: Float[np.ndarray, "3"],
    *,
    view: str,
    laterality: str,
    turn: float = 0.0,
    tilt: float = 0.0,
    source_distance: float = 1150.0,
    detector_distance: float = 120.0,
) -> Camera:
    """Points the central ray at a target.

    Args:
        target: The target in patient coordinates.
        view: Direction of the beam, 'AP' (front to back, the patient facing the viewer) or
            'lateral'.
        laterality: Side of the leg, 'L' or 'R'. A right leg's outer side is on the left of an AP
            image.
        turn: Error of the leg's rotation about its axis, rad.
        tilt: Rotation within the image, rad.
        source_distance: Distance from the focal spot to the detector, mm.
        detector_distance: Distance from the target to the detector, mm.
    """
    angle = turn + (np.pi / 2 if view == "lateral" else 0.0)
    beam = np.array([-np.sin(angle), -np.cos(angle), 0.0])
    across = np.array([np.cos(angle), -np.sin(angle), 0.0]) * (1.0 if laterality == "L" else -1.0)
    down = np.array([0.0, 0.0, -1.0])
    object_distance = source_distance - detector_distance
    half_depth = 105.0 if view == "lateral" else 65.0
    return Camera(
        source=target - object_distance * beam,
        centre=target + detector_distance * beam,
        right=np.cos(tilt) * across + np.sin(tilt) * down,
        down=np.cos(tilt) * down - np.sin(tilt) * across,
        depth=(object_distance - half_depth, object_distance + half_depth),
        magnification=source_distance / object_distance,
    )
