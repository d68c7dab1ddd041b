"""A diagnostic beam and its attenuation: polychromatic Beer-Lambert law in a few energy bins."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32

ENERGY_KEV = (28.07, 38.12, 47.87, 57.69, 67.19)
"""Mean energies of the bins 10-33, 33-43, 43-53, 53-63 and 63-75 keV."""

WEIGHTS = np.array([0.1778, 0.2628, 0.2570, 0.2016, 0.1008])
"""Share of the open beam's signal in each bin.

The spectrum is that of 75 kV on tungsten (anode angle 12 degrees) with 3 mm Al by SpekPy 2.5
(Poludniowski et al., Med Phys 2021;48:3630-3637), weighted by energy as in an energy-integrating
detector.
"""

ATTENUATION = {
    "bone": np.array([0.3040, 0.1424, 0.08831, 0.06410, 0.05186]),
    "adipose": np.array([0.03144, 0.02351, 0.02058, 0.01902, 0.01804]),
    "soft": np.array([0.04456, 0.02985, 0.02469, 0.02214, 0.02065]),
    "titanium": np.array([2.709, 1.139, 0.6133, 0.3799, 0.2647]),
    "steel": np.array([8.456, 3.574, 1.901, 1.150, 0.7760]),
    "plaster": np.array([0.2239, 0.1024, 0.06189, 0.04383, 0.03475]),
    "lead": np.array([40.84, 18.46, 10.22, 6.302, 4.262]),
}
"""Linear attenuation in 1/mm at ENERGY_KEV.

The values are sums over elements by xraylib 4.3, which agree with NIST Standard Reference Database
126 to 4 digits. Materials and densities in g/cm3: cortical bone (1.92), adipose (0.95) and soft
tissue (1.06) of ICRU-44; titanium (4.51), steel 316L (8.0), cast gypsum plaster (1.2), lead
(11.35).
"""


def attenuate(
    lengths: Mapping[str, Float32[np.ndarray, "*rays"]],
) -> tuple[Float32[np.ndarray, "*rays"], Float32[np.ndarray, "*rays"]]:
    """Transmission of the beam through materials.

    Args:
        lengths: Path in mm through each material, by its name in ATTENUATION.

    Returns:
        The transmission T = sum_e w_e exp(-sum_m mu_em l_m), 0 to 1, and the change of -log T per
        relative change of the mineralised bone, l_b sum_e mu_eb T_e / T.
    """
    transmission = sensitivity = np.float32(0.0)
    for e, weight in enumerate(WEIGHTS):
        exponent = sum(np.float32(ATTENUATION[m][e]) * length for m, length in lengths.items())
        in_bin = np.float32(weight) * np.exp(-exponent)
        transmission = transmission + in_bin
        sensitivity = sensitivity + np.float32(ATTENUATION["bone"][e]) * in_bin
    # Behind thick metal the transmission underflows to zero. The bound keeps the ratio finite.
    transmission = np.maximum(transmission, np.float32(1e-30))
    return transmission, lengths["bone"] * sensitivity / transmission
