"""The nine families and torchvision's classifiers: shapes, sizes, learning, weights and what goes wrong with them."""

from __future__ import annotations

import copy
import sys
import urllib.error
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from common.errors import UserError
from vision import models
from vision.models.layers import count_parameters, model_facts, reduction
from vision.models.pretrained import head_of

FAMILIES = list(models.FAMILIES)


def tiny(family: str, classes: int = 4, channels: int = 1, image_size: int = 28) -> nn.Module:
    torch.manual_seed(0)
    return models.build(family, "tiny", classes=classes, channels=channels, image_size=image_size)


def resnet18(**changes: object) -> nn.Module:
    settings = {"classes": 5, "channels": 3, "image_size": 32, **changes}
    return models.build("torchvision/resnet18", **settings)  # type: ignore[arg-type]


# --- shapes and sizes


@pytest.mark.parametrize("image_size", [28, 32, 33, 64])
@pytest.mark.parametrize("size", ["tiny", "small"])
@pytest.mark.parametrize("family", FAMILIES)
def test_gives_one_logit_per_class(family: str, size: str, image_size: int) -> None:
    for channels in (1, 3):
        model = models.build(family, size, classes=7, channels=channels, image_size=image_size).eval()
        assert model(torch.randn(2, channels, image_size, image_size)).shape == (2, 7)


@pytest.mark.parametrize("image_size", [95, 96, 224, 227])
@pytest.mark.parametrize("family", FAMILIES)
def test_takes_photographs(family: str, image_size: int) -> None:
    assert tiny(family, channels=3, image_size=image_size).eval()(torch.randn(1, 3, image_size, image_size)).shape == (
        1,
        4,
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_are_in_order_and_tiny_is_tiny(family: str) -> None:
    module = sys.modules[models.FAMILIES[family].__module__]
    assert tuple(module.SIZES) == models.SIZES
    with torch.device("meta"):
        counts = [
            count_parameters(models.build(family, size, classes=10, channels=3, image_size=32)) for size in models.SIZES
        ]
    assert counts == sorted(counts)
    assert counts[0] < 100_000
    assert counts[1] < 1_000_000


@pytest.mark.parametrize("family", FAMILIES)
def test_224_px_do_not_cost_49_times_32_px(family: str) -> None:
    flops = [model_facts(tiny(family, image_size=size), 1, size)["flops"] for size in (32, 224)]
    assert flops[1] < 20 * flops[0]
    assert (reduction(95), reduction(96)) == (1, 4)


@pytest.mark.parametrize(
    ("family", "size", "parameters"),
    [  # of the papers' own networks, as torchvision has them with 1,000 classes
        ("resnet", "base", 11_689_512),
        ("resnet", "large", 25_557_032),
        ("densenet", "large", 7_978_856),
        ("efficientnet", "base", 5_288_548),
        ("efficientnet", "large", 9_109_994),
        ("mobilenet", "base", 3_504_872),
    ],
)
def test_base_and_large_are_the_papers_networks(family: str, size: str, parameters: int) -> None:
    with torch.device("meta"):
        model = models.build(family, size, classes=1000, channels=3, image_size=224)
    assert count_parameters(model) == parameters


def test_model_facts_count_convolutions_products_and_attention() -> None:
    lenet = models.build("lenet", "tiny", classes=10, channels=1, image_size=28)
    macs = 28 * 28 * 6 * 25 + 10 * 10 * 16 * 6 * 25 + 120 * 16 * 25 + 120 * 84 + 84 * 10
    assert model_facts(lenet, 1, 28) == {"parameters": 61_706, "flops": 2 * macs}
    vit = models.build("vit", "small", classes=10, channels=1, image_size=28)
    block = 49 * 96 * (3 * 96 + 96 + 2 * 192) + 2 * 49 * 49 * 96  # linear layers; queries × keys, weights × values
    assert model_facts(vit, 1, 28)["flops"] == 2 * (49 * 96 * 16 + 4 * block + 96 * 10)


def test_model_facts_leave_the_model_as_it_was() -> None:
    model = tiny("resnet").train()
    next(model.children()).eval()
    modes = [module.training for module in model.modules()]
    before = copy.deepcopy(model.state_dict())
    model_facts(model, 1, 28)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


# --- learning


@pytest.mark.parametrize("family", FAMILIES)
def test_can_learn_sixteen_random_images_by_heart_with_every_weight(family: str) -> None:
    model = tiny(family)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # memory is asked for here, not generalisation
    images, labels = torch.randn(16, 1, 28, 28), torch.arange(16) % 4
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for step in range(40):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step == 3:  # residual branches start at zero, so at step 0 their inner weights have no gradient yet
            idle = [
                n for n, p in model.named_parameters() if p.grad is None or not p.grad.any() or p.grad.isnan().any()
            ]
            assert idle == []
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_weights_give_the_same_logits_again_and_again(family: str, tmp_path: Path) -> None:
    model = tiny(family)
    model(torch.randn(4, 1, 28, 28))  # moves the statistics of batch norm
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    torch.manual_seed(1)
    again = models.build(
        family, "tiny", classes=4, channels=1, image_size=28, weights=str(tmp_path / "model.safetensors")
    )
    images = torch.randn(3, 1, 28, 28)
    with torch.no_grad():
        logits = model.eval()(images)
        assert torch.equal(model(images), logits)
        assert torch.equal(again.eval()(images), logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_works_in_bf16_with_channels_last(family: str) -> None:
    model = tiny(family).to(memory_format=torch.channels_last)
    images = torch.randn(4, 1, 28, 28).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(model(images), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        low = model.eval()(images).float()
    assert F.cosine_similarity(low.flatten(), model(images).flatten(), dim=0) > 0.99


@pytest.mark.parametrize("family", FAMILIES)
def test_traces_as_one_graph(family: str) -> None:
    model = tiny(family).eval()
    images = torch.randn(2, 1, 28, 28)
    program = torch.export.export(model, (images,)).module()
    torch.testing.assert_close(program(images), model(images))


# --- torchvision, weights and freezing


def test_torchvision_gets_a_head_for_the_classes() -> None:
    model = resnet18()
    name, head = head_of(model)
    assert (name, head.weight.shape) == ("fc", (5, 512))
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 5)


@pytest.mark.parametrize(
    ("name", "image_size", "head"),
    [("squeezenet1_1", 32, "classifier.1"), ("googlenet", 32, "fc"), ("mobilenet_v3_small", 32, "classifier.3")],
)
def test_heads_of_every_kind_are_found(name: str, image_size: int, head: str) -> None:
    model = models.build(f"torchvision/{name}", classes=5, channels=3, image_size=image_size, freeze=True).train()
    assert {key.rpartition(".")[0] for key, p in model.named_parameters() if p.requires_grad} == {head}
    assert model(torch.randn(2, 3, image_size, image_size)).shape == (2, 5)


@pytest.mark.parametrize("name", ["torchvision/resnet18", "resnet"])
def test_freeze_trains_the_head_and_nothing_else(name: str) -> None:
    model = models.build(name, "tiny", classes=5, channels=3, image_size=32, freeze=True)
    model = copy.deepcopy(model)  # as an exponential moving average does
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    for _ in range(3):
        model.train()
        loss = F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.eval()
    head = head_of(model)[0]
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {f"{head}.weight", f"{head}.bias"}


def test_weights_file_with_another_head_keeps_all_but_the_head(tmp_path: Path) -> None:
    source = tiny("vgg", classes=10)
    torch.save(source.state_dict(), tmp_path / "ten.pt")
    model = models.build(
        "vgg", "tiny", classes=3, channels=1, image_size=28, weights=str(tmp_path / "ten.pt"), freeze=True
    )
    assert model(torch.randn(2, 1, 28, 28)).shape == (2, 3)
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in source.state_dict().items() if "head" not in key)


def test_imagenet_weights_come_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    source = resnet18(classes=1000)
    torch.save(source.state_dict(), tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth")
    model = resnet18(weights="imagenet")
    assert torch.equal(model.state_dict()["layer4.1.conv2.weight"], source.state_dict()["layer4.1.conv2.weight"])
    assert model.state_dict()["fc.weight"].shape == (5, 512)


def test_imagenet_weights_of_old_densenet_and_with_auxiliary_heads_fit() -> None:
    from vision.models.pretrained import _modernise

    state = {"features.denselayer1.norm.1.weight": torch.ones(1), "aux1.fc1.weight": torch.ones(1)}
    _modernise(state)
    assert list(state) == ["features.denselayer1.norm1.weight"]


def offline(*arguments: object, **options: object) -> None:
    raise urllib.error.URLError("no network")


def test_imagenet_weights_offline_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(UserError) as caught:
        resnet18(weights="imagenet")
    text = str(caught.value)
    assert "https://download.pytorch.org/models/resnet18-f37072fd.pth" in text
    assert str(tmp_path / "hub" / "checkpoints") in text
    assert "--weights none" in text
    assert len(text.splitlines()) == 2
    assert list(tmp_path.rglob("*.pth")) == []


def test_half_a_download_is_not_taken_for_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    file.parent.mkdir(parents=True)
    torch.save(resnet18(classes=1000).state_dict(), file)
    file.write_bytes(file.read_bytes()[:1_000_000])
    with pytest.raises(UserError, match="damaged") as caught:
        resnet18(weights="imagenet")
    assert str(file) in str(caught.value)


def test_mean_and_std_of_imagenet() -> None:
    from torchvision.models import get_model_weights

    for name in ("resnet18", "efficientnet_v2_l"):
        expected = get_model_weights(name)["DEFAULT"].transforms()
        assert models.weights_mean_std("imagenet", f"torchvision/{name}") == (tuple(expected.mean), tuple(expected.std))
    assert models.weights_mean_std("none") is None


def test_needs_of_models() -> None:
    assert (models.required_channels("vgg"), models.minimum_size("vgg")) == (None, 28)
    assert (models.required_channels("torchvision/resnet18"), models.minimum_size("torchvision/resnet18")) == (3, 32)
    assert models.minimum_size("torchvision/inception_v3") == 75


# --- mistakes


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"name": "resnett"}, "Did you mean resnet?"),
        ({"name": "torchvision/resnet19"}, "Did you mean torchvision/resnet1"),
        ({"size": "smal"}, "Did you mean small?"),
        ({"image_size": 20}, "at least 28 px"),
        ({"name": "torchvision/resnet18", "image_size": 32}, "does not take images with 1 channel"),
        ({"name": "torchvision/vit_b_16", "channels": 3, "image_size": 40}, "does not take images of 40 px"),
        ({"weights": "imagenet"}, "no ImageNet weights for vgg"),
        ({"weights": "nowhere.pt"}, "There is no weights file nowhere.pt"),
        ({"weights": __file__}, "must be a .safetensors, .pt or .pth file"),
    ],
)
def test_mistakes_get_a_line_that_helps(changes: dict[str, object], text: str) -> None:
    settings = {"name": "vgg", "size": "tiny", "classes": 3, "channels": 1, "image_size": 28, **changes}
    with pytest.raises(UserError) as caught:
        models.build(**settings)  # type: ignore[arg-type]
    assert text in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2


def test_weights_of_another_model_name_a_few_keys(tmp_path: Path) -> None:
    torch.save(tiny("lenet").state_dict(), tmp_path / "lenet.pt")
    with pytest.raises(UserError) as caught:
        models.build("vgg", "tiny", classes=4, channels=1, image_size=28, weights=str(tmp_path / "lenet.pt"))
    assert "features.0.weight" in str(caught.value)
    assert "missing" in str(caught.value)
    assert "unknown" in str(caught.value)


def test_weights_that_run_code_or_are_damaged_are_refused(tmp_path: Path) -> None:
    torch.save(tiny("vgg"), tmp_path / "pickled.pt")  # a whole module, which only unpickling code could load
    (tmp_path / "broken.safetensors").write_bytes(b"not tensors")
    torch.save({"state": {}}, tmp_path / "wrapped.pt")
    for name in ("pickled.pt", "broken.safetensors", "wrapped.pt"):
        with pytest.raises(UserError) as caught:
            models.build("vgg", "tiny", classes=4, channels=1, image_size=28, weights=str(tmp_path / name))
        assert name in str(caught.value)
        assert len(str(caught.value).splitlines()) == 2
        assert "weights_only" not in str(caught.value)  # PyTorch advises to turn it off
