"""The relativistic GAN loss with zero-centred gradient penalties, as in R3GAN.

Huang et al. 2024, arXiv 2501.05441, section 2. D scores images, x is real, G(z) is fake:

    L_G = E[softplus(D(x) - D(G(z)))]
    L_D = E[softplus(D(G(z)) - D(x))] + gamma / 2 (R1 + R2)
    R1  = E[|grad D(x)|^2],  R2 = E[|grad D(G(z))|^2]

The pairs are x and G(z) with the same index in the batch, and should share their condition.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

Images = Float[Array, "batch height width channels"]
Pairs = Float[Array, "twice_batch height width channels"]
Logits = Float[Array, " batch"]
Scalar = Float[Array, ""]


def generator_loss(real_logits: Logits, fake_logits: Logits) -> Scalar:
    """Returns L_G.

    Args:
        real_logits: The logits D(x).
        fake_logits: The logits D(G(z)), through which the caller differentiates.
    """
    return _relativistic_loss(favoured=fake_logits, other=real_logits)


def discriminator_loss(
    discriminate: Callable[[Pairs], Float[Array, " twice_batch"]],
    real: Images,
    fake: Images,
    gamma: float | Scalar,
) -> tuple[Scalar, dict[str, Array]]:
    """Returns L_D and its terms.

    Args:
        discriminate: The discriminator D at the conditions of real and fake in turn, x_1, G(z_1),
            x_2, ...; each logit must depend on one image only.
        real: The images x.
        fake: The images G(z), held constant.
        gamma: The weight of the penalties.

    Returns:
        L_D; the adversarial loss, R1, R2, and the logits of each image.
    """
    # One call that is twice as large runs almost twice as fast as two calls. Alternating images,
    # unlike concatenated halves, stay on their device where the batch is split over several.
    pairs = jnp.stack([real, jax.lax.stop_gradient(fake)], axis=1)
    images = pairs.reshape(-1, *real.shape[1:])
    logits, squares = _logits_and_squared_gradients(discriminate, images)
    real_logits, fake_logits = logits.reshape(-1, 2).T
    r1, r2 = squares.reshape(-1, 2).mean(axis=0)
    adversarial = _relativistic_loss(favoured=real_logits, other=fake_logits)
    return adversarial + gamma / 2 * (r1 + r2), {
        "adversarial": adversarial,
        "r1": r1,
        "r2": r2,
        "real_logits": real_logits,
        "fake_logits": fake_logits,
    }


def burn_in(step: int | Num[Array, ""], start: float, end: float, steps: int) -> Scalar:
    """Returns a hyper-parameter that moves from `start` to `end` along half a cosine, then stays.

    R3GAN moves gamma, the learning rate, Adam's beta2 and the moving average's half-life in this
    way at the beginning of the training (appendix, hyper-parameters).

    Args:
        step: The number of training steps, or images, so far.
        start: The value at step 0.
        end: The value at `steps` and after.
        steps: The length of the burn-in, positive, in the unit of `step`.
    """
    progress = jnp.clip(step / steps, 0.0, 1.0)
    return end + (start - end) * 0.5 * (1 + jnp.cos(jnp.pi * progress))


def _relativistic_loss(favoured: Logits, other: Logits) -> Scalar:
    """Small where each favoured image scores above its partner."""
    return jnp.mean(jax.nn.softplus(other - favoured))


def _logits_and_squared_gradients(
    discriminate: Callable[[Images], Logits], images: Images
) -> tuple[Logits, Logits]:
    """D(x) and |grad D(x)|^2 of each image, from one forward pass, in float32 or better."""
    images = images.astype(jnp.promote_types(images.dtype, jnp.float32))

    def total(images: Images) -> tuple[Scalar, Logits]:
        logits = discriminate(images)
        return jnp.sum(logits), logits

    # Each logit depends on one image only, so the sum's gradient holds the gradient of each.
    gradient, logits = jax.grad(total, has_aux=True)(images)
    return logits, jnp.sum(gradient**2, axis=(1, 2, 3))
