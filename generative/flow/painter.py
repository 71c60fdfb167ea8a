"""A trained network as what makes pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from common.machine import device
from generative import gallery, quality
from generative.flow.paths import Known, Moment, Path, Way, walk


@dataclass(frozen=True)
class Painter:
    """Makes pictures of latents, in evaluation mode and fp32, whatever the training's number format.

    Args:
        network: as `UNet`.
        shape: of a picture, (C, S, S).
        classes: K, that can be asked for; 0 for none.
    """

    network: nn.Module
    path: Path
    way: Way
    shape: tuple[int, int, int]
    classes: int

    @property
    def latent_size(self) -> int:
        return self.shape[0] * self.shape[1] * self.shape[2]

    def along(self, way: Way) -> Painter:
        """The same, drawing another way."""
        return replace(self, way=way)

    def __call__(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Pictures uint8 [N, C, S, S] on the CPU, of latents [N, C · S · S] and labels int64 [N]."""
        parts = []
        for indices in torch.arange(len(latents)).split(quality.batch_size(device.of(self.network))):
            chosen = labels[indices] if labels is not None else None
            parts.append(gallery.to_pixels(self.moments(latents[indices], chosen, every=False)[-1].points))
        return torch.cat(parts).contiguous()

    @torch.inference_mode()
    def moments(
        self, latents: Tensor, labels: Tensor | None, known: Known | None = None, *, every: bool = True
    ) -> list[Moment]:
        """Every moment of the way from latents [N, C · S · S] to pictures, or the last alone, on the CPU."""
        place = device.of(self.network)
        noise = latents.unflatten(1, self.shape).to(place)
        asked = labels.to(place) if labels is not None and self.classes else None
        if known is not None:
            known = known._replace(picture=known.picture.to(place), mask=known.mask.to(place))
        training = self.network.training
        self.network.eval()
        kept: list[Moment] = []
        for moment in walk(self.path, lambda x, time: self._predicted(x, time, asked), noise, self.way, known):
            kept = [*kept, moment] if every else [moment]
        self.network.train(training)
        return [Moment(moment.points.cpu(), moment.expected.cpu()) for moment in kept]

    def _predicted(self, x: Tensor, time: float, labels: Tensor | None) -> Tensor:
        """What the network says at points [N, C, S, S], moved by the guidance."""
        times = torch.full((len(x),), time, device=x.device)
        if labels is None:
            alone: Tensor = self.network((x, times))
            return alone
        if self.way.guidance == 1:
            plain: Tensor = self.network((x, times, labels))
            return plain
        both = torch.cat([labels, torch.full_like(labels, self.classes)])
        asked, free = self.network((torch.cat([x, x]), torch.cat([times, times]), both)).chunk(2)
        moved: Tensor = free + self.way.guidance * (asked - free)
        return moved
