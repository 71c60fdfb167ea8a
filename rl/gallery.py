"""What the report of an agent shows: a played episode, and how its returns are spread."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import UserError
from common.report import frames, plots
from common.report import page as report
from rl.environments import Environments
from rl.playing import Played, one_thread, play

Values = Callable[[Tensor], Tensor]  # observations [N, *shape] to the value of every action, [N, A]


def sections(name: str, values: Values, played: Played, seed: int) -> list[report.Section]:
    """A played episode as an animation, and how the returns of the test are spread."""
    try:
        made = [film(name, values, seed)]
    except (UserError, ImportError, RuntimeError) as error:  # no agent is worse for lack of a picture
        made = [report.table("The agent at work", ["no animation, because"], [[str(error)]])]
    if played.returns.std(correction=0) > 0:
        with plots.canvas("Histogram of the returns of the test episodes") as (figure, (ax,)):
            ax.hist(played.returns.tolist(), bins=20, color=plots.ACCENT)
            ax.set_xlabel("return")
            ax.set_ylabel("episodes")
        made.append(report.figure("Returns of the test episodes", figure))
    return made


def film(name: str, values: Values, seed: int, most: int = 100, width: int = 240) -> report.Section:
    """One played episode as an animation of at most `most` pictures; a longer one is shown in time-lapse."""
    played = Environments(name, 1, once=True, render=True)
    pictures: list[Tensor] = []
    with one_thread():
        shown = play(values, played, seed, watch=lambda: pictures.append(picture(played.render(), width)))
    played.close()
    every = math.ceil(len(pictures) / most)
    text = f"Return {shown.mean:g} in {int(shown.lengths[0])} steps" + (f", every {every}th shown" if every > 1 else "")
    return report.animation(
        "The agent at work", frames.gif(pictures[::every], fps=20), f"An episode. {text}", text + "."
    )


def picture(rendered: Any, width: int) -> Tensor:
    """uint8 [H, W, 3] as uint8 [3, H', width]."""
    image = torch.from_numpy(rendered.copy()).permute(2, 0, 1)
    height = round(width * image.shape[1] / image.shape[2])
    if image.shape[2] <= width:
        return image
    return F.interpolate(image[None].float(), (height, width), mode="area")[0].to(torch.uint8)
