"""torchvision's classifiers, weights from a download or a file, and training only the head."""

from __future__ import annotations

import contextlib
import http.client
import pickle
import re
import sys
from collections import OrderedDict
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError
from vision.models import TORCHVISION


def torchvision_names() -> list[str]:
    """The names of torchvision's classifiers, such as "resnet18"."""
    import torchvision

    return torchvision.models.list_models(module=torchvision.models)


def torchvision_minimum_size(name: str) -> int:
    """The smallest side in pixels that a classifier of torchvision takes, at least 32."""
    import torchvision

    if name.startswith(("vit_", "swin_")):  # theirs is the size they were trained with; smaller works
        return 32
    return max(32, *torchvision.models.get_model_weights(name)["DEFAULT"].meta["min_size"])


def build_torchvision(name: str, classes: int, image_size: int) -> nn.Module:
    """A classifier of torchvision without weights: [B, 3, image_size, image_size] -> logits [B, classes]."""
    import torchvision

    options: dict[str, Any] = {"num_classes": classes}
    if name in ("googlenet", "inception_v3"):
        # One output, no auxiliary ones. Their weights come from TensorFlow and want another normalisation,
        # which transform_input does; it is always on, so that a saved model is the same without `weights`.
        options |= {"aux_logits": False, "init_weights": True, "transform_input": True}
    elif name.startswith("vit_"):
        options["image_size"] = image_size
    elif name.startswith("maxvit_"):
        options["input_size"] = (image_size, image_size)
    try:
        return torchvision.models.get_model(name, weights=None, **options)
    except (AssertionError, ValueError):  # an image that its patches or windows do not divide
        raise UserError(f"{TORCHVISION}{name} does not take images of {image_size} px.", "224 px fit.") from None


def load_weights(model: nn.Module, name: str, weights: str, image_size: int) -> None:
    """Loads pretrained weights into a model; a head of another shape stays as it is.

    Args:
        model: as built by `vision.models.build`.
        name: its name there.
        weights: "imagenet", or the path of a .safetensors, .pt or .pth state_dict.
        image_size: the side of an image; position embeddings of torchvision's ViT are interpolated to it.
    """
    state = _imagenet(name) if weights == "imagenet" else _read(Path(weights))
    if name.startswith(TORCHVISION):
        _modernise(state)
        from torchvision.models import vision_transformer as vit

        if isinstance(model, vit.VisionTransformer) and "encoder.pos_embedding" in state:
            state = vit.interpolate_embeddings(image_size, model.patch_size, OrderedDict(state))
    expected = model.state_dict()
    head = head_of(model)[0]
    for key in (f"{head}.weight", f"{head}.bias"):
        if key not in state or (key in expected and state[key].shape != expected[key].shape):
            state[key] = expected[key]
    problems = _misfits(expected, state)
    if problems:
        raise UserError(
            f"The weights {weights} do not fit {name}: {'; '.join(problems)}.",
            "They belong to another model, size, number of channels or image size.",
        )
    model.load_state_dict(state)


def head_of(model: nn.Module) -> tuple[str, nn.Module]:
    """The name and module of the layer that gives the logits: the last linear layer or convolution."""
    return [(name, m) for name, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1]


def freeze_all_but_head(model: nn.Module) -> None:
    """Leaves only the head to train; `model.train()` does not switch frozen batch norm layers to training.

    In training mode they would go on averaging their statistics, whether their weights are trained or not.
    """
    model.requires_grad_(False)
    head_of(model)[1].requires_grad_(True)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
            module.train = MethodType(_stay, module)  # type: ignore[method-assign]


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    return module


def _imagenet(name: str) -> dict[str, Tensor]:
    """The state_dict of torchvision's default weights, from its cache or downloaded and checked."""
    if not name.startswith(TORCHVISION):
        raise UserError(
            f"There are no ImageNet weights for {name}.", "Use --model torchvision/NAME, or --weights none."
        )
    import torchvision

    found = torchvision.models.get_model_weights(name.removeprefix(TORCHVISION))["DEFAULT"]
    file = Path(torch.hub.get_dir(), "checkpoints", Path(found.url).name)
    hint = f"Download it to {file.parent} where there is a network, or use --weights none."
    try:
        with contextlib.redirect_stdout(sys.stderr):  # torch.hub prints what it downloads
            return found.get_state_dict(progress=False, check_hash=True, map_location="cpu", weights_only=True)
    except (OSError, http.client.HTTPException) as error:
        what = f"The ImageNet weights {file.name} are not in {file.parent} and can't be had from {found.url}: {error}."
        raise UserError(what, hint) from None
    except (RuntimeError, EOFError, pickle.UnpicklingError):  # a wrong hash, or a file that ends too early
        raise UserError(f"The ImageNet weights {file} are damaged.", "Delete that file and start again.") from None


def _read(file: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .pt file, by name; never runs code from the file."""
    if not file.is_file():
        raise UserError(f"There is no weights file {file}.", "--weights takes imagenet, none or a file.")
    if file.suffix not in (".safetensors", ".pt", ".pth"):
        raise UserError(f"The weights {file} must be a .safetensors, .pt or .pth file.")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors, zip and pickle each have their own for a damaged file
        reason = str(error).partition("\n")[0] or "the file ends too early"
        # PyTorch's own text advises to run what is in the file.
        if isinstance(error, pickle.UnpicklingError) or "weights_only" in reason:
            reason = "it holds Python objects, which can run code, or is damaged"
        raise UserError(f"Can't read the weights {file}: {reason}", "It should hold a state_dict of tensors.") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"The weights {file} hold more than a state_dict.", "Save model.state_dict() alone.")
    return state


def _modernise(state: dict[str, Tensor]) -> None:
    """Renames and drops, in place, what torchvision's own files hold beside the weights of a classifier."""
    for key in list(state):
        if key.startswith(("AuxLogits.", "aux1.", "aux2.")):
            del state[key]
        elif re.search(r"denselayer\d+\.(norm|conv)\.[12]\.", key):  # DenseNet, saved before PyTorch 0.4
            state[re.sub(r"\.(norm|conv)\.([12])\.", r".\1\2.", key)] = state.pop(key)


def _misfits(expected: dict[str, Tensor], state: dict[str, Tensor]) -> list[str]:
    """What keeps a state_dict from loading, each with a few of the keys."""

    def some(what: str, keys: list[str]) -> list[str]:
        return [f"{len(keys)} {what} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})"] if keys else []

    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    unknown = [key for key in state if key not in expected]
    shapes = [key for key in expected if key in state and state[key].shape != expected[key].shape]
    return some("missing", missing) + some("unknown", unknown) + some("of another shape", shapes)
