"""What the losses do in a whole training: they find all modes, which can be counted."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.experiments import gan_modes


def test_all_of_eight_gaussians_on_a_ring_are_found():
    """As `make experiment` does with 25 and 1000 modes; without the penalties one is lost here."""
    angles = np.arange(8) * np.pi / 4
    centres = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    deviation = 0.05

    def real(key):
        place, noise = jax.random.split(key)
        chosen = jnp.asarray(centres)[jax.random.randint(place, (256,), 0, 8)]
        return chosen + deviation * jax.random.normal(noise, chosen.shape)

    recipe = gan_modes.GRID._replace(steps=800, width=64)
    made = gan_modes.trained(real, recipe, dim=2, seed=0, samples=1000)
    distance = np.linalg.norm(made[:, None] - centres, axis=-1)
    near = distance.min(axis=1) < 3 * deviation
    assert near.mean() > 0.6  # a fiftieth of the square around the ring
    assert np.bincount(distance.argmin(axis=1)[near], minlength=8).min() >= 40
