"""The page of `research.ladder`: what each rung removes, and the questions that come once a model is trained."""

from __future__ import annotations

import ast
import difflib
import inspect
import math
import statistics
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.data.tables import Rows
from common.report import page as report
from common.report import plots
from research.ladder.climb import Climb, Fold

DERIVATION_NOTE = "Rung 1 needs this; rung 2 no longer does."
DERIVATION = """<p style="margin:0 0 0.5rem">For one row with features x and label y, 0 or 1:</p>
<table><tbody>
<tr><td>logit</td><td>z = x · w + b</td></tr>
<tr><td>probability</td><td>p = σ(z) = 1 / (1 + e<sup>−z</sup>)</td></tr>
<tr><td>loss</td><td>L = −y log p − (1 − y) log(1 − p)</td></tr>
<tr><td>simplified</td><td>L = log(1 + e<sup>z</sup>) − y z</td></tr>
<tr><td>by the logit</td><td>∂L/∂z = e<sup>z</sup> / (1 + e<sup>z</sup>) − y = σ(z) − y</td></tr>
<tr><td>by a weight</td><td>∂L/∂w<sub>j</sub> = (σ(z) − y) x<sub>j</sub></td></tr>
<tr><td>by the bias</td><td>∂L/∂b = σ(z) − y</td></tr>
<tr><td>a step</td><td>w ← w − η · mean over the rows of ∂L/∂w</td></tr>
</tbody></table>"""

DASHES: Any = ("-", (0, (4, 1.5)), (0, (1, 1.2)))

# --- rungs -------------------------------------------------------------------------------------------------


def table(
    rungs: Sequence[Callable[..., Any]], climbs: Mapping[str, Climb], losses: Mapping[str, float]
) -> report.Section:
    """Code, time and result of every rung.

    Args:
        rungs, climbs, losses: in the same order; `losses` over all training rows at the end of each climb.
    """
    rows, before = [], None
    for number, (rung, (name, climb)) in enumerate(zip(rungs, climbs.items(), strict=True), start=1):
        steps = len(climb.seconds)
        moves = None
        if before is not None and len(before.seconds) == steps:
            moves = (climb.weights - before.weights).abs().max().item()
        micros = round(1e6 * climb.seconds[-1] / steps)
        rows.append((f"{number}", name, len(source(rung)), steps, micros, losses[name], distance(moves)))
        before = climb
    columns = ("rung", "what does the work", "lines", "steps", "µs per step", "loss at the end", "weights moved by")
    note = (
        "The same model from the same start. Rungs 1 to 3 take one step an epoch, on all rows at once; rungs 4 and 5 "
        "take many, on a mini-batch each. The last column is the largest difference between a weight and the same "
        "weight one rung below: rounding, where the rungs do the same thing. The time of fit includes its logs and "
        "checkpoints; the loss is over all training rows, in nats."
    )
    return report.table("Five rungs", columns, rows, note)


def distance(moves: float | None) -> str:
    return "–" if moves is None else "0, bit for bit" if moves == 0 else f"{moves:.0e}".replace("e-0", " × 10⁻")


def source(function: Callable[..., Any]) -> list[str]:
    """The lines of a function's body, without its docstring."""
    lines = textwrap.dedent(inspect.getsource(function)).splitlines()
    declaration = ast.parse("\n".join(lines)).body[0]
    assert isinstance(declaration, ast.FunctionDef)
    body = textwrap.dedent("\n".join(lines[declaration.body[0].end_lineno :]))
    return body.replace("  # fmt: skip", "").splitlines()


def code(rungs: Sequence[Callable[..., Any]]) -> list[report.Section]:
    """The derivation, and each rung's code with what it removed of the rung below."""
    sections = [report.Section("The gradient on paper", DERIVATION, DERIVATION_NOTE, wide=False)]
    before = source(rungs[0])
    for number, rung in enumerate(rungs, start=1):
        after = source(rung)
        marked = changes(before, after)
        gone, new = (sum(sign == wanted for sign, _ in marked) for wanted in "−+")
        title = f"Rung {number}" + (
            f": {gone} {'line goes' if gone == 1 else 'lines go'}, {new} come" if number > 1 else ""
        )
        note = " ".join((inspect.getdoc(rung) or "").replace("`", "").split())
        sections.append(report.Section(title, listing(marked), note, wide=False))
        before = after
    return sections


def changes(before: Sequence[str], after: Sequence[str]) -> list[tuple[str, str]]:
    """(sign, line): "−" only before, "+" only after, " " in both, whatever its indentation and its comment."""
    keys = [[line.partition("  #")[0].strip() for line in lines] for lines in (before, after)]
    marked = []
    for kind, i, j, k, m in difflib.SequenceMatcher(a=keys[0], b=keys[1], autojunk=False).get_opcodes():
        if kind == "equal":
            marked += [(" ", line) for line in after[k:m]]
        else:
            marked += [("−", line) for line in before[i:j]] + [("+", line) for line in after[k:m]]
    return marked


def listing(marked: Sequence[tuple[str, str]]) -> str:
    """Code with its signs: what is new stands out, what went is pale."""
    style = {"+": "new", "−": "gone", " ": ""}
    lines = [f'<span class="{style[sign]}">{sign} {escape(line)}</span>' for sign, line in marked]
    return f'<pre tabindex="0">{chr(10).join(lines)}</pre>'


def by_epochs(mini: Climb, epochs: int) -> tuple[list[float], list[float]]:
    """Each epoch's mean loss over its mini-batches, and the seconds at the epoch's middle, where the mean belongs."""
    size = len(mini.losses) // epochs
    starts = range(0, len(mini.losses), size)
    return [statistics.fmean(mini.losses[i : i + size]) for i in starts], [mini.seconds[i + size // 2] for i in starts]


def race(full: Climb, mini: Climb) -> str:
    """Which of the two is where when, in words."""
    means, seconds = by_epochs(mini, len(full.losses))
    start = (
        f"full batch comes to {full.losses[-1]:.3f} in {len(full.losses)} epochs and {1e3 * full.seconds[-1]:.0f} ms"
    )
    for epoch, (mean, second) in enumerate(zip(means, seconds, strict=True), start=1):
        if mean <= full.losses[-1]:
            return f"{start}, mini-batches in epoch {epoch}, after {1e3 * second:.0f} ms"
    return f"{start}, mini-batches to {means[-1]:.3f} in as many epochs and {1e3 * mini.seconds[-1]:.0f} ms"


def batches(full: Climb, mini: Climb) -> report.Section:
    """Loss of full batch and mini-batches, by epoch and by time."""
    epochs = len(full.losses)
    means, seconds = by_epochs(mini, epochs)
    by_epoch = {"full batch": (range(epochs), full.losses), "mini-batches": ([i + 0.5 for i in range(epochs)], means)}
    by_time = {
        "full batch": ([1e3 * s for s in full.seconds], full.losses),
        "mini-batches": ([1e3 * s for s in seconds], means),
    }
    figures = [
        curves("training loss by epoch", "epoch", by_epoch),
        curves("training loss by time", "milliseconds of work", by_time, log=True),
    ]
    outcome = race(full, mini)
    note = (
        f"{outcome[:1].upper()}{outcome[1:]}. "
        "A mini-batch gives a rougher gradient, but an epoch has room for many steps. On a table this small a step "
        "costs nearly the same whatever its batch, and the DataLoader collects rows one by one; with a million rows "
        "a full-batch step would cost thousands of times more, and mini-batches win by the clock too."
    )
    return report.figure("Full batch against mini-batches", figures, note)


def curves(
    title: str, unit: str, lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], log: bool = False
) -> Any:
    with plots.canvas(title, 4.6, 3.2) as (figure, (ax,)):
        for (name, (x, y)), colour in zip(lines.items(), (plots.SECOND, plots.ACCENT), strict=True):
            ax.plot(x, y, color=colour, label=name)
        ax.set_title(title)
        ax.set(xlabel=unit, ylim=(0, None))
        if log:
            ax.set_xscale("log")
            plots.plain(ax.xaxis, (1,))
        ax.legend(loc="upper right")
    return figure


# --- decision threshold ------------------------------------------------------------------------------------

THRESHOLDS = [i / 100 for i in range(1, 100)]
Scored = tuple[Tensor, Tensor]  # probability of the positive class [N], whether it is that class [N]


def count(scored: Scored, threshold: float) -> tuple[int, int, int]:
    """True positives, false positives and false negatives where everything from `threshold` up is called positive."""
    probability, positive = scored
    called = probability >= threshold
    return int((called & positive).sum()), int((called & ~positive).sum()), int((~called & positive).sum())


def cheapest(scored: Scored, miss_cost: float) -> float:
    """The threshold of the lowest cost, a false alarm being 1; the middle one where several cost the same."""
    costs = [fp + miss_cost * fn for _, fp, fn in (count(scored, t) for t in THRESHOLDS)]
    best = [t for t, cost in zip(THRESHOLDS, costs, strict=True) if cost == min(costs)]
    return best[len(best) // 2]


def trade(valid: Scored, test: Scored, name: str, miss_cost: float) -> str:
    """What the chosen threshold gains on test, in words."""
    chosen = cheapest(valid, miss_cost)
    (_, alarms, misses), (_, alarms_at_half, misses_at_half) = (count(test, t) for t in (chosen, 0.5))
    return (
        f"from {chosen:.2f} up it is called {name}: {misses} missed and {alarms} false alarms on test, "
        f"{misses_at_half} and {alarms_at_half} from 0.50"
    )


def threshold(valid: Scored, test: Scored, name: str, miss_cost: float) -> list[report.Section]:
    """Precision, recall and cost against the threshold, which is chosen on validation and tried on test."""
    chosen = cheapest(valid, miss_cost)
    counts = [count(valid, t) for t in THRESHOLDS]
    with plots.canvas(f"Precision, recall and cost by threshold for {name}", 5.0, 4.6, rows=(3, 2)) as (
        fig,
        (top, low),
    ):
        precision = [tp / (tp + fp) if tp + fp else math.nan for tp, fp, _ in counts]
        top.plot(THRESHOLDS, precision, color=plots.SECOND, label="precision")
        top.plot(THRESHOLDS, [tp / max(tp + fn, 1) for tp, _, fn in counts], color=plots.ACCENT, label="recall")
        low.plot(THRESHOLDS, [fp + miss_cost * fn for _, fp, fn in counts], color=plots.ACCENT, drawstyle="steps-mid")
        for ax in (top, low):
            ax.axvline(chosen, color=plots.MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
        top.legend(loc="lower center")
        top.set(ylim=(None, 1.01))
        low.set(xlabel=f"threshold on the probability of {name}", ylabel="cost", xlim=(0, 1), ylim=(0, None))
    note = (
        f"On validation. Everything from the threshold up is called {name}: a lower one misses fewer and raises more "
        f"false alarms. A miss costs {miss_cost:g} false alarms (--miss-cost), which makes {chosen:.2f} the cheapest."
    )
    rows: list[tuple[str, str, float | None, float | None, int, int, str]] = []
    for split, scored in (("valid", valid), ("test", test)):
        for t in (0.5, chosen):
            tp, fp, fn = count(scored, t)
            precise = tp / (tp + fp) if tp + fp else None
            rows.append((split, f"{t:.2f}", precise, tp / (tp + fn), fp, fn, f"{fp + miss_cost * fn:g}"))
    columns = ("split", "from", "precision", "recall", "alarms", "misses", "cost")
    positives = int(test[1].sum())
    explained = (
        "Alarms are false ones. The choice was made on validation; test shows what it is worth on rows that had no "
        f"say in it. With {positives} {name} rows there, one more miss moves recall by {1 / positives:.1%}. The saved "
        "model keeps 0.5 and gives probabilities: where to cut is for those who bear the cost."
    )
    return [
        report.figure("Decision threshold", fig, note),
        replace(report.table("What the threshold is worth", columns, rows, explained), wide=False),
    ]


# --- losses and optimisers ---------------------------------------------------------------------------------

# Outputs [N, 1] or, for cross-entropy, [N, 2]; targets 0.0 or 1.0, [N].
LOSSES: dict[str, tuple[int, Callable[[Tensor, Tensor], Tensor]]] = {
    "BCE": (1, lambda out, y: F.binary_cross_entropy_with_logits(out[:, 0], y)),
    "MSE": (1, lambda out, y: F.mse_loss(out[:, 0].sigmoid(), y)),
    "cross-entropy": (2, lambda out, y: F.cross_entropy(out, y.long())),
}
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"SGD": torch.optim.SGD, "Adam": torch.optim.Adam}
RATES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


def descend(loss: str, optimizer: str, rate: float, train: Rows, valid: Rows, epochs: int) -> list[Tensor]:
    """Full-batch training with one loss and one optimiser: after each epoch the validation logits [V]."""
    outputs, loss_fn = LOSSES[loss]
    model = nn.Linear(train.features.shape[1], outputs)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    steps = OPTIMIZERS[optimizer](model.parameters(), lr=rate)
    history = []
    for _ in range(epochs):
        loss_fn(model(train.features), train.targets).backward()
        steps.step()
        steps.zero_grad()
        with torch.no_grad():
            out = model(valid.features)  # [V, 1] or [V, 2]
            history.append(out[:, 1] - out[:, 0] if outputs == 2 else out[:, 0])
    return history


def losses(train: Rows, valid: Rows, epochs: int) -> list[report.Section]:
    """Three losses by two optimisers, each at its best learning rate."""
    rows, lines = [], {}
    for loss in LOSSES:
        for optimizer in OPTIMIZERS:
            runs = {rate: descend(loss, optimizer, rate, train, valid, epochs) for rate in RATES}
            # One yardstick for all: the log loss of the probabilities, whatever was trained on.
            log_loss = {
                rate: [F.binary_cross_entropy_with_logits(z, valid.targets).item() for z in history]
                for rate, history in runs.items()
            }
            rate = min(RATES, key=lambda r: log_loss[r][-1])
            right = ((runs[rate][-1] > 0) == (valid.targets > 0)).float().mean().item()
            lines[loss, optimizer] = log_loss[rate]
            rows.append((loss, optimizer, f"{rate:g}", log_loss[rate][-1], right))
    with plots.canvas("Validation log loss by epoch of three losses and two optimisers", 5.0, 3.8) as (figure, (ax,)):
        for (loss, optimizer), values in lines.items():
            colour = plots.ACCENT if optimizer == "Adam" else plots.SECOND
            dashes = DASHES[list(LOSSES).index(loss)]
            ax.plot(range(1, epochs + 1), values, color=colour, linestyle=dashes, label=f"{loss}, {optimizer}")
        ax.set(xlabel="epoch", ylabel="validation log loss", yscale="log")
        plots.plain(ax.yaxis, (1, 2, 5))
        ax.legend(loc="upper right")
    note = (
        "Full batch, as on rung 3; every line at the best of the rates "
        f"{', '.join(f'{r:g}' for r in RATES)}, picked on the same validation rows that are shown."
    )
    explained = (
        "Cross-entropy over two outputs is BCE on their difference, which moves twice as far a step: with SGD it draws "
        "the same line at half the rate. MSE loses its slope where the model is sure and wrong, since σ is flat there, "
        "and needs larger steps. Adam scales every weight's step by its own gradients, which evens this out."
    )
    columns = ("loss", "optimiser", "best rate", "log loss", "accuracy")
    return [
        report.figure("Losses and optimisers", figure, note),
        report.table("The same, in numbers", columns, rows, explained),
    ]


# --- cross-validation --------------------------------------------------------------------------------------


def verdict(values: Mapping[str, float]) -> str:
    """The outcome of the cross-validation, in words."""
    low, mean, high = (values[f"cv_difference{end}"] for end in ("_low", "", "_high"))
    texts = [f"{100 * value:+.2f}".replace("-", "−") for value in (mean, low, high)]
    told = "no difference can be told" if low <= 0 <= high else "ours is better" if low > 0 else "ours is worse"
    ours, reference = (100 * values[f"cv_{name}"] for name in ("accuracy", "reference_accuracy"))
    return (
        f"{ours:.2f} %, scikit-learn {reference:.2f} %: a difference of {texts[0]} points, 95 % interval {texts[1]} to "
        f"{texts[2]}, so {told}"
    )


def cross_validation(folds: Sequence[Fold], values: Mapping[str, float]) -> list[report.Section]:
    """The paired differences to scikit-learn with their interval, and the accuracy of every fold."""
    low, mean, high = (100 * values[f"cv_difference{end}"] for end in ("_low", "", "_high"))
    numbers = range(1, len(folds) + 1)
    with plots.canvas("Difference of accuracy to scikit-learn by fold", 5.0, 3.6) as (figure, (ax,)):
        ax.axhspan(low, high, color=plots.ACCENT, alpha=0.15, linewidth=0, label="95 % interval of the mean")
        ax.axhline(0, color=plots.MUTED, linewidth=0.8)
        ax.axhline(mean, color=plots.ACCENT, linewidth=1.2, label="mean")
        ax.plot(numbers, [100 * (f.ours - f.reference) for f in folds], "o", color=plots.ACCENT, label="fold")
        ax.set(xlabel="fold", ylabel="ours − scikit-learn, points")
        ax.set_xticks(numbers)
        ax.legend(loc="best")
    note = (
        f"Accuracy is {verdict(values)}. Each fold is a pair, since both models see the same rows. Folds share "
        "training rows, so the interval is the wider one of Nadeau and Bengio (2003)."
    )
    rows = [(str(i), fold.ours, fold.reference) for i, fold in zip(numbers, folds, strict=True)]
    rows.append(("mean", values["cv_accuracy"], values["cv_reference_accuracy"]))
    columns = ("fold", "accuracy, ours", "accuracy, scikit-learn")
    explained = (
        f"Standard deviation of ours over the folds: {100 * values['cv_accuracy_std']:.2f} points. All rows take "
        "part, so nothing was tuned on these numbers: epochs, batch and rate are round textbook values."
    )
    return [
        report.figure("Cross-validation against scikit-learn", figure, note),
        report.table("Accuracy of every fold", columns, rows, explained),
    ]
