"""The relativistic GAN loss with zero-centred gradient penalties, as in R3GAN.

Huang et al. 2024, arXiv 2501.05441, section 2. D scores images, x is real, G(z) is fake:

    L_G = E[softplus(D(x) - D(G(z)))]
    L_D = E[softplus(D(G(z)) - D(x))] + gamma / 2 (R1 + R2)
    R1  = E[|grad D(x)|^2],  R2 = E[|grad D(G(z))|^2]

The pairs are x and G(z) at the same place in the batch, and should share their condition.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

Images = Float[Array, "batch height width channels"]
Logits = Float[Array, " batch"]
Scalar = Float[Array, ""]


def generator_loss(
    discriminate: Callable[[Images], Logits], real: Images, fake: Images
) -> tuple[Scalar, dict[str, Scalar]]:
    """L_G and its metrics.

    Args:
        discriminate: D at the conditions of the batch.
        real: x.
        fake: G(z), through which the caller differentiates.
    """
    loss = _relativistic_loss(discriminate(fake), discriminate(real))
    return loss, {"generator_loss": loss}


def discriminator_loss(
    discriminate: Callable[[Images], Logits],
    real: Images,
    fake: Images,
    gamma: float | Scalar,
) -> tuple[Scalar, dict[str, Scalar]]:
    """L_D and its metrics.

    Args:
        discriminate: D at the conditions of the batch, whose logits depend each on its own image.
        real: x.
        fake: G(z), held constant.
        gamma: weight of the penalties.
    """
    real_logits, r1 = _logits_and_penalty(discriminate, real)
    fake_logits, r2 = _logits_and_penalty(discriminate, jax.lax.stop_gradient(fake))
    adversarial = _relativistic_loss(real_logits, fake_logits)
    loss = adversarial + gamma / 2 * (r1 + r2)
    return loss, {
        "discriminator_loss": adversarial,
        "r1": r1,
        "r2": r2,
        "real_logit": jnp.mean(real_logits),
        "fake_logit": jnp.mean(fake_logits),
    }


def burn_in(step: int | Num[Array, ""], start: float, end: float, steps: int) -> Scalar:
    """A hyper-parameter that moves from `start` to `end` along half a cosine, then stays.

    R3GAN moves gamma, the learning rate and Adam's beta2 so in the first part of training
    (appendix, hyper-parameters).

    Args:
        step: training steps, or images, done.
        start: value at step 0.
        end: value at `steps` and after.
        steps: length of the burn-in, positive, in the unit of `step`.
    """
    progress = jnp.clip(step / steps, 0.0, 1.0)
    return end + (start - end) * 0.5 * (1 + jnp.cos(jnp.pi * progress))


def _relativistic_loss(favoured: Logits, other: Logits) -> Scalar:
    """Small where each favoured image scores above its partner."""
    return jnp.mean(jax.nn.softplus(other - favoured))


def _logits_and_penalty(
    discriminate: Callable[[Images], Logits], images: Images
) -> tuple[Logits, Scalar]:
    """D(x) and E[|grad D(x)|^2], from one forward pass, in float32 or better."""
    images = images.astype(jnp.promote_types(images.dtype, jnp.float32))

    def total(images: Images) -> tuple[Scalar, Logits]:
        logits = discriminate(images)
        return jnp.sum(logits), logits

    # Each logit depends on its own image only, so the sum's gradient holds every image's own.
    gradient, logits = jax.grad(total, has_aux=True)(images)
    return logits, jnp.mean(jnp.sum(gradient**2, axis=(1, 2, 3)))
