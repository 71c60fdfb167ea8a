"""Three adversarial objectives: DCGAN's, WGAN-GP's and R3GAN's. All take logits [B] and give means over the batch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Autocast = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class Objective:
    """What a discriminator and a generator minimise.

    Attributes:
        discriminator: (real logits, fake logits) to the discriminator's loss, without penalties.
        generator: (real logits, fake logits) to the generator's loss.
        relativistic: whether the generator's loss needs the real logits.
        norm: whether the discriminator may have batch norm. A penalty on the gradient of each image rules it out,
            because batch norm makes a logit depend on the other images.
        generator_norm: the same for the generator.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor], Tensor]
    relativistic: bool = False
    norm: bool = False
    generator_norm: bool = True


OBJECTIVES: dict[str, Objective] = {
    # Non-saturating cross-entropy: Goodfellow et al. 2014 (arXiv 1406.2661), section 3, with Radford et al.'s networks.
    "dcgan": Objective(
        discriminator=lambda real, fake: F.softplus(-real).mean() + F.softplus(fake).mean(),
        generator=lambda real, fake: F.softplus(-fake).mean(),
        norm=True,
    ),
    # Gulrajani et al. 2017 (arXiv 1704.00028), algorithm 1.
    "wgan-gp": Objective(
        discriminator=lambda real, fake: fake.mean() - real.mean(),
        generator=lambda real, fake: -fake.mean(),
    ),
    # Huang et al. 2024 (arXiv 2501.05441), section 2: each fake is compared with one real image.
    "r3gan": Objective(
        discriminator=lambda real, fake: F.softplus(fake - real).mean(),
        generator=lambda real, fake: F.softplus(real - fake).mean(),
        relativistic=True,
        generator_norm=False,
    ),
}


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor, labels: Tensor | None, mix: Tensor) -> Tensor:
    """WGAN-GP's two-sided penalty: the mean over the batch of (‖∇ critic(x̂)‖ − 1)², x̂ = mix · real + (1 − mix) · fake.

    Args:
        real, fake: [B, C, H, W].
        mix: uniform in [0, 1], [B, 1, 1, 1].
    """
    between = torch.lerp(fake, real, mix).requires_grad_()
    logits = critic.forward(between, labels)  # not through compiled code, which has no second derivative
    (gradient,) = torch.autograd.grad(logits.sum(), between, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


def zero_centred_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """‖∇ logit‖² of each image, [B]: R1 on real images, R2 on fakes (Mescheder et al. 2018, arXiv 1801.04406).

    Args:
        logits: [B], computed from `images`, [B, C, H, W], which require gradients.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.flatten(1).square().sum(1)


def discriminator_loss(
    name: str,
    critic: nn.Module,
    real: Tensor,
    fake: Tensor,
    labels: Tensor | None,
    *,
    penalty: float,
    mix: Tensor,
    autocast: Autocast,
) -> dict[str, Tensor]:
    """The discriminator's loss, to be minimised, and its parts by name.

    Penalties are computed in fp32: a gradient's norm is a sum of many small squares.

    Args:
        real, fake: [B, C, H, W] in [−1, 1]; `fake` without gradients.
        penalty: weight of the gradient penalty.
        mix: as in `gradient_penalty`.
    """
    objective = OBJECTIVES[name]
    if objective.norm:  # one pass each: real and fake batches have statistics of their own (Radford et al. 2016)
        with autocast():
            return {"loss": objective.discriminator(critic(real, labels), critic(fake, labels))}
    both = torch.cat([real, fake])
    twice = torch.cat([labels, labels]) if labels is not None else None
    if name == "wgan-gp":
        with autocast():
            loss = objective.discriminator(*critic(both, twice).chunk(2))
        size = gradient_penalty(critic, real, fake, labels, mix)
        return {"loss": loss + penalty * size, "wasserstein": -loss, "penalty": size}
    both.requires_grad_()
    logits = critic.forward(both, twice)  # not through compiled code, which has no second derivative
    r1, r2 = zero_centred_penalty(logits, both).chunk(2)
    loss = objective.discriminator(*logits.chunk(2))
    size = r1.mean() + r2.mean()
    return {"loss": loss + penalty / 2 * size, "penalty": size}


def generator_loss(
    name: str, critic: nn.Module, real: Tensor, fake: Tensor, labels: Tensor | None, autocast: Autocast
) -> Tensor:
    """The generator's loss, to be minimised; gradients flow through `fake` only."""
    objective = OBJECTIVES[name]
    with autocast():
        logits = critic(fake, labels)
        if not objective.relativistic:
            return objective.generator(logits, logits)
        with torch.no_grad():
            compared = critic(real, labels)
        return objective.generator(compared, logits)
