"""How metrics and settings are called where people read them: in tiles, tables and charts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What a name says only to those who wrote it.
NAMES = {"q": "mean action value (Q)", "lr": "learning rate"}
WORDS = {
    "auc": "AUC",
    "bleu": "BLEU",
    "chrf": "chrF",
    "cv": "CV",
    "f1": "F1",
    "frechet": "Fréchet",
    "ibm1": "IBM-1",
    "mae": "MAE",
    "map": "mAP",
    "miou": "mIoU",
    "mse": "MSE",
    "psnr": "PSNR",
    "rmse": "RMSE",
    "roc": "ROC",
    "ssim": "SSIM",
    "std": "std.",
    "tfidf": "TF-IDF",
    "top5": "top-5",
    "wer": "WER",
}


def label(name: str) -> str:
    """'roc_auc' -> 'ROC AUC', 'frechet_floor' -> 'Fréchet floor', 'log_loss' -> 'log loss'."""
    words = [WORDS.get(word, word) for word in name.split("_")]
    if words[-1] == "per":  # a rate of errors, where it is not between two others
        words[-1] = "PER"
    return NAMES.get(name) or " ".join(words)


def heading(name: str) -> str:
    """The label with a capital first letter, unless it has one of its own further on (mAP)."""
    text = label(name)
    first = text.split(" ", 1)[0]
    return text if first[1:] != first[1:].lower() else text[:1].upper() + text[1:]


def text(value: Any) -> str:
    """A setting as a reader expects it, never as Python prints it: yes, none, 'torch 2.11, numpy 2.0', '3, 5'."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{label(str(name))} {text(part)}" for name, part in value.items()) or "none"
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(map(text, value)) or "none"
    return str(value)
