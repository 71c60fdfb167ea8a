"""The losses of deep Q-learning: of values, and of distributions of returns."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rl.dqn.networks import QNetwork
from rl.dqn.replay import Batch


def losses(model: QNetwork, target: QNetwork, batch: Batch, double: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of each transition, its error as a priority, and the value of its action, all [B].

    The target is r + γⁿ · Q'(s', a*): a* is the best action by the target network Q' itself, or with `double` by the
    network that learns (van Hasselt et al. 2016, arXiv 1509.06461, equation 4).
    """
    if model.atoms > 1:
        return distributional_losses(model, target, batch, double)
    with torch.no_grad():
        following = target.values(batch.next_observations)  # [B, A]
        judge = model.values(batch.next_observations) if double else following
        following = following.gather(1, judge.argmax(1, keepdim=True)).squeeze(1)
        goal = batch.returns + batch.discounts * following
    value = model.values(batch.observations).gather(1, batch.actions[:, None]).squeeze(1)
    return F.smooth_l1_loss(value, goal, reduction="none"), (goal - value.detach()).abs(), value.detach()


def distributional_losses(
    model: QNetwork, target: QNetwork, batch: Batch, double: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The same where returns are distributions: the cross-entropy between the target's, moved, and the learned one."""
    with torch.no_grad():
        following = target(batch.next_observations).float()  # [B, A, Z]
        judge = model.values(batch.next_observations) if double else target.expected(following)  # [B, A]
        following = pick(following, judge.argmax(1))  # [B, Z]
    logits = pick(model(batch.observations).float(), batch.actions)  # [B, Z]
    goal = project(following.softmax(1), batch.returns, batch.discounts, model.support)  # [B, Z]
    cross_entropy = -(goal * logits.log_softmax(1)).sum(1)
    entropy = -torch.special.entr(goal).sum(1)
    # Without its constant part, as a priority: the Kullback-Leibler divergence.
    divergence = (cross_entropy.detach() + entropy).clamp(min=0)
    return cross_entropy, divergence, logits.detach().softmax(1) @ model.support


def pick(values: Tensor, actions: Tensor) -> Tensor:
    """[B, A, Z] at actions [B] to [B, Z]."""
    return values.gather(1, actions[:, None, None].expand(-1, 1, values.shape[2])).squeeze(1)


def project(probabilities: Tensor, returns: Tensor, discounts: Tensor, support: Tensor) -> Tensor:
    """The distribution of r + discount · Z, brought back onto the support (Bellemare et al. 2017, algorithm 1).

    Args:
        probabilities: of the successor's returns, [B, Z].
        returns, discounts: r and γⁿ (0 after a termination), [B].
        support: evenly spaced returns, [Z].

    Returns:
        [B, Z], rows that sum to 1.
    """
    low, step = support[0], support[1] - support[0]
    moved = (returns[:, None] + discounts[:, None] * support).clamp(support[0], support[-1])
    position = ((moved - low) / step).clamp(0, len(support) - 1)  # [B, Z], in steps of the support
    # Atom j takes what lies within one step of it, in proportion to the nearness.
    atoms = torch.arange(len(support), device=support.device, dtype=support.dtype)
    nearness = (1 - (position[:, None, :] - atoms[:, None]).abs()).clamp_(min=0)  # [B, Z, Z]
    return torch.einsum("bji,bi->bj", nearness, probabilities)
