"""What only a path from noise to picture has for the report of its run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from common.data.images.sources import ImageData
from common.report import frames, plots
from common.report import page as report
from generative import gallery
from generative.flow.painter import Painter
from generative.flow.paths import Way
from generative.judge import Judge

SHOWN = 10  # moments of a strip
ROWS = 4  # strips
GUIDANCES = (1.0, 1.5, 2.0, 4.0)
FEW = 300  # samples at each guidance
QUICK = 8  # steps of each at most


def sections(
    painter: Painter,
    judge: Judge,
    data: ImageData,
    samples: Tensor,
    losses: Sequence[float],
    usual: list[report.Section],
) -> list[report.Section]:
    """The usual sections of a generator, with the way of a few pictures behind the first of them.

    Args:
        losses: of validation images, by tenths of the time.
        usual: as `gallery.sections` gives them.
    """
    first, *rest = usual
    way, film = paths(painter)
    curve = [guidance(painter, judge)] if painter.classes else []
    return [first, way, *rest, film, loss_by_time(losses), *curve]


def paths(painter: Painter) -> tuple[report.Section, report.Section]:
    """From noise to picture as strips, and as an animation."""
    latents = gallery.fixed_latents(ROWS * 8, painter.latent_size)
    labels = torch.arange(ROWS * 8) % painter.classes if painter.classes else None
    moments = painter.moments(latents, labels)
    noise = latents.unflatten(1, painter.shape)
    chosen = torch.linspace(0, len(moments) - 1, min(SHOWN - 1, len(moments))).round().long().tolist()
    rows = []
    for i in range(ROWS):
        points = torch.stack([noise[i], *(moments[k].points[i] for k in chosen)])
        expected = torch.stack([torch.zeros_like(noise[i]), *(moments[k].expected[i] for k in chosen)])
        rows += [points, expected]
    strip = frames.grid(gallery.to_pixels(torch.cat(rows)), len(chosen) + 1)
    way = painter.way
    note = (
        f"Each picture in two rows, from noise at the left to the picture at the right ({way.sampler}, {way.steps} "
        "steps): where the way has come to, and below it the picture that the network then expects at its end."
    )
    sheets = [frames.grid(gallery.to_pixels(x), 8) for x in (noise, *(m.points for m in moments))]
    again = "The same way as an animation, of more pictures."
    return (
        report.image("From noise to picture", strip, "pictures at several moments of their way from noise", note),
        report.animation(
            "The way, animated", frames.gif(sheets, fps=max(4.0, len(sheets) / 4)), "noise that becomes pictures", again
        ),
    )


def loss_by_time(losses: Sequence[float]) -> report.Section:
    """Where on the way the network is how sure."""
    times = [(i + 0.5) / len(losses) for i in range(len(losses))]
    with plots.canvas("Loss on validation images by time", 4.5, 2.8) as (figure, (ax,)):
        ax.plot(times, losses, color=plots.ACCENT, marker="o", markersize=4)
        ax.set_xlabel("time: 0 all noise, 1 the picture")
        ax.set_ylim(bottom=0)
        ax.set_title("squared error of the prediction")
    note = "On validation images, with the averaged network. Near 0 nothing is known of the picture yet."
    return report.figure("Loss by time", figure, note)


def guidance(painter: Painter, judge: Judge) -> report.Section:
    """Precision against recall of samples drawn with ever more guidance."""
    latents = gallery.fixed_latents(FEW, painter.latent_size, seed=gallery.SEED + 2)
    found, steps = [], min(QUICK, painter.way.steps)
    for strength in GUIDANCES:
        made = painter.along(Way(painter.way.sampler, steps, strength))(latents, judge.wanted(FEW))
        found.append(judge.precision_recall(judge.look(made)))
    with plots.canvas("Precision against recall over guidance", 4.5, 2.8) as (figure, (ax,)):
        ax.plot([r for _, r in found], [p for p, _ in found], color=plots.ACCENT, marker="o", markersize=4)
        for strength, (p, r) in zip(GUIDANCES, found, strict=True):
            ax.annotate(f"{strength:g}", (r, p), textcoords="offset points", xytext=(6, -10), color=plots.MUTED)
        ax.set_xlabel("recall")
        ax.set_title("precision")
    note = (
        f"Of {FEW} samples in {steps} steps at each guidance, the number at each point: more of it makes pictures "
        "clearer and less varied. Few samples lower recall: compare along the curve."
    )
    return report.figure("Guidance", figure, note)
