"""vision.detect: boxes in the photo's own pixels, COCO's numbers, points and their objects, annotations of others."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from common import artifact
from common.command.arguments import Options
from common.command.execute import execute
from common.errors import UserError
from common.kinds import boxes as kind
from common.kinds.boxes import Boxes, Truth, coco, coco_files
from common.kinds.photo import Fitted, Photo
from common.report import frames
from tests.helpers import mistake, same, warm
from vision import scenes
from vision.detect import data as sources
from vision.detect import errors, formats, pages
from vision.detect.__main__ import DetectConfig, evaluate, example, load
from vision.detect.augment import Mosaic
from vision.detect.loss import DetectionLoss, assign, generalized_iou, objects, paired_iou
from vision.detect.model import MOST, Outputs, build, point_grid, select

pytest.importorskip("faster_coco_eval", reason="the extra detect is not installed")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    options = Options(tiny=True, quiet=True, out=str(tmp_path_factory.mktemp("detect")))
    return execute(example, options, {"device": "cpu", "precision": "fp32"})


# --- results -----------------------------------------------------------------------------------------------


def test_it_learns_where_shapes_are_and_measures_the_same_again(trained: dict[str, Any]) -> None:
    metrics = trained["metrics"]
    assert metrics["map_50"] > 0.4
    assert 0.1 < metrics["map"] < metrics["map_50"]
    assert (metrics["n"], metrics["objects"]) == (48, 90)
    saved = artifact.load(Path(trained["run"]))
    assert evaluate(saved, DetectConfig().with_values(saved.config)).values == pytest.approx(metrics)


def test_an_answer_is_in_the_pixels_of_the_photo_that_was_sent(trained: dict[str, Any]) -> None:
    """The same scene, small and in the corner of its canvas or three times as large, has the same boxes."""
    predictor = load(artifact.load(Path(trained["run"])))
    scene = scenes.shapes(0).splits["test"][0].image
    wide = torch.nn.functional.pad(scene, (0, 32), value=90)  # 96 × 64
    large = wide.repeat_interleave(3, 1).repeat_interleave(3, 2)
    small, big = predictor.predict([predictor.input.decode(frames.png(image)) for image in (wide, large)])
    assert (big["width"], big["height"]) == (288, 192)
    (first, second) = (row["boxes"][0] for row in (small, big))
    assert first["class"] == second["class"]
    assert second["box"] == pytest.approx([3 * value for value in first["box"]], abs=6)
    for row in (small, big):
        for left, top, right, bottom in (one["box"] for one in row["boxes"]):
            assert 0 <= left <= right <= row["width"]
            assert 0 <= top <= bottom <= row["height"]


def test_the_report_draws_boxes_as_vectors_and_says_what_errors_cost(trained: dict[str, Any]) -> None:
    report = (Path(trained["run"]) / "report.html").read_text()
    gallery = report[report.index("Typical photos") : report.index("What errors cost")]
    assert gallery.count("<svg") >= pages.SHOWN
    assert gallery.count("<rect") > 2 * pages.SHOWN
    assert re.search(r"<title>(square|disc|triangle) 0\.\d\d, found</title>", gallery)
    assert "Precision and recall" in report
    for name in errors.KINDS:
        assert re.search(rf"<td[^>]*>{name}</td>", report), name


# --- the photo and its canvas ------------------------------------------------------------------------------


def photo(height: int = 64, width: int = 96) -> Photo:
    return Photo(max(height, width), 3, (0.5,) * 3, (0.25,) * 3, None, height, width)


def test_a_photo_is_fitted_whole_and_boxes_come_back() -> None:
    one = photo()
    picture = torch.zeros(3, 200, 100, dtype=torch.uint8)
    picture[:, 50:100, 20:60] = 255
    fitted = one.fit(picture)
    assert fitted.image.shape == (3, 64, 96)
    assert fitted.size.tolist() == [100, 200]
    assert (fitted.image[:, :, 32:] == 128).all()  # the rest is the mean colour
    scale = one.scales(fitted.size)
    lit = (fitted.image[0, :, :32] > 127).nonzero()
    box = torch.tensor([[lit[:, 1].min(), lit[:, 0].min(), lit[:, 1].max() + 1, lit[:, 0].max() + 1]]).float()
    (back,) = one.to_photo(box[None], fitted.size[None])[0]
    assert back.tolist() == pytest.approx([20, 50, 60, 100], abs=2 / float(scale.min()))
    outside = one.to_photo(torch.tensor([[[-9.0, -9.0, 500.0, 500.0]]]), fitted.size[None])
    assert outside.flatten().tolist() == [0, 0, 100, 200]


def test_a_photo_that_lies_on_its_side_is_turned_before_it_is_measured() -> None:
    buffer, turned = io.BytesIO(), Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (90, 30), "red").save(buffer, "jpeg", exif=turned)
    fitted = photo().decode(buffer.getvalue())
    assert fitted.size.tolist() == [30, 90]


def test_a_photo_is_saved_with_a_model_and_read_again() -> None:
    assert Photo.from_json(json.loads(json.dumps(photo().to_json()))) == photo()
    with pytest.raises(UserError, match="not valid"):
        Photo.from_json({"kind": "image", "size": 8, "channels": 3, "mean": [0.5] * 3, "std": [1] * 3})


# --- COCO --------------------------------------------------------------------------------------------------


def random_case(seed: int) -> tuple[list[str], list[Tensor], list[Truth]]:
    """Images with crowds, ties, empty truths and empty answers."""
    draw = torch.Generator().manual_seed(seed)

    def number(most: int) -> int:
        return int(torch.randint(0, most + 1, (), generator=draw))

    def some(count: int) -> Tensor:
        place = torch.rand(count, 2, generator=draw) * 200
        return torch.cat([place, place + 2 + torch.rand(count, 2, generator=draw) ** 2 * 150], 1).double()

    names = [f"class {k}" for k in range(1 + number(3))]
    found, truths = [], []
    for _ in range(1 + number(5)):
        truth = some(number(6))
        labels = torch.randint(0, len(names), (len(truth),), generator=draw)
        crowd = torch.rand(len(truth), generator=draw) < 0.15
        truths.append(Truth.of(truth, labels, crowd))
        near = truth + torch.randn(truth.shape, generator=draw) * 5
        near[:, 2:] = torch.maximum(near[:, 2:], near[:, :2] + 1)
        boxes = torch.cat([near, some(number(4))])
        scores = (torch.rand(len(boxes), generator=draw) * 10).round() / 10 + 0.05  # many are equal
        kinds = torch.cat([labels, torch.randint(0, len(names), (len(boxes) - len(labels),), generator=draw)])
        rows = torch.cat([boxes, scores[:, None].double(), kinds[:, None].double()], 1)
        found.append(rows[: 0 if number(9) == 0 else len(rows)])
    return names, found, truths


def test_the_figures_are_those_of_pycocotools(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pycocotools", reason="pycocotools is not installed")
    from tests.bench.boxes import largest_difference

    assert largest_difference(range(200)) < 1e-9


def test_a_perfect_answer_has_an_ap_of_one_and_none_at_all_has_zero() -> None:
    truth = Truth.of(torch.tensor([[0, 0, 50, 50], [60, 60, 200, 200]]), torch.tensor([0, 1]))
    perfect = torch.cat([truth.boxes, torch.tensor([[0.9, 0], [0.8, 1]])], 1)
    answer = Boxes(["a", "b", "unseen"])
    right, nothing = (answer.measure([one], [truth]) for one in (perfect, perfect[:0]))
    assert right.values["map"] == pytest.approx(1)
    assert nothing.values["map"] == 0
    assert "unseen" in right.notes[0]
    assert "map_small" not in right.values  # left out, and said, where there is none
    assert any("small" in note for note in right.notes)
    with pytest.raises(UserError, match="no image of the test split has an object"):
        answer.measure([perfect], [Truth.of(torch.zeros(0, 4), torch.zeros(0))])


def test_rows_are_jsonable_and_go_into_a_table() -> None:
    answer = Boxes(["a", "b"])
    found = torch.tensor([[[1.0, 2.0, 3.0, 4.0, 0.5, 1.0], [0.0] * 6]])
    (row,) = answer.rows(found, torch.tensor([[30, 20]]))
    assert row == {"boxes": [{"class": "b", "score": 0.5, "box": [1, 2, 3, 4]}], "width": 30, "height": 20}
    assert answer.is_row(json.loads(json.dumps(row)))
    assert answer.cells(row) == ['[{"class": "b", "score": 0.5, "box": [1.0, 2.0, 3.0, 4.0]}]', 1]


def test_without_the_extra_it_is_said_before_anything_is_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kind, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="faster-coco-eval") as raised:
        execute(example, Options(tiny=True, quiet=True, out=str(tmp_path / "out")), {})
    assert ".[detect]" in raised.value.hint
    assert not (tmp_path / "out").exists()


# --- errors ------------------------------------------------------------------------------------------------


def test_each_kind_of_error_is_told_and_costs_what_it_takes_away() -> None:
    truth = Truth.of(
        torch.tensor([[0, 0, 40, 40], [100, 0, 140, 40], [200, 0, 240, 40], [0, 200, 40, 240]]),
        torch.tensor([0, 0, 1, 1]),
    )
    found = torch.tensor(
        [
            [0, 0, 40, 40, 0.99, 0],  # right
            [1, 0, 41, 40, 0.95, 0],  # the same object again
            [100, 0, 140, 40, 0.9, 1],  # another class
            [220, 0, 260, 40, 0.8, 1],  # not quite the place
            [20, 0, 60, 40, 0.7, 1],  # neither
            [300, 300, 340, 340, 0.6, 0],  # nothing there
            [0, 0, 0, 0, 0, 0],  # padding
        ]
    )
    judged = errors.judge(found, truth)
    assert judged.kind.tolist() == [
        errors.RIGHT,
        errors.TWICE,
        errors.CLASS,
        errors.PLACE,
        errors.BOTH,
        errors.NOTHING,
        -1,
    ]
    assert judged.missed.tolist() == [False, False, False, True]
    costs = errors.costs(["a", "b"], [found], [truth])
    assert costs.keys() == errors.KINDS.keys()
    assert all(0 <= cost <= 1 for cost in costs.values())
    assert costs["class"] > 0.15  # an object of "a" would be found, and "b" have one wrong box less
    assert costs["place"] > 0.1
    assert costs["background"] == 0  # it comes after everything that is right
    perfect = torch.cat([truth.boxes.float(), torch.ones(4, 1), truth.labels[:, None]], 1)
    assert sum(errors.costs(["a", "b"], [perfect], [truth]).values()) == 0


def test_boxes_are_shown_from_the_threshold_that_serves_best() -> None:
    truth = Truth.of(torch.tensor([[0, 0, 40, 40], [100, 0, 140, 40]]), torch.tensor([0, 0]))
    found = torch.tensor([[0, 0, 40, 40, 0.9, 0], [100, 0, 140, 40, 0.7, 0], [200, 0, 240, 40, 0.6, 0.0]])
    assert pages.best_threshold([found], [truth]) == pytest.approx(0.7)
    assert pages.best_threshold([found], [Truth.of(torch.zeros(0, 4), torch.zeros(0))]) == pages.USUAL


# --- the network and its loss ------------------------------------------------------------------------------


def outputs_of(boxes: Tensor, points: Tensor, labels: Tensor, classes: int, sure: float = 4.0) -> Outputs:
    """What a network would say that sees every box from every point in it."""
    logits = torch.full((1, len(points), classes), -6.0)
    found = torch.cat([points - 2, points + 2], 1)
    for box, label in zip(boxes, labels, strict=True):
        inside = ((points > box[:2]) & (points < box[2:])).all(1)
        logits[0, inside, label] = sure
        found[inside] = box
    return Outputs(logits, torch.full((1, len(points)), 6.0), found[None])


def test_points_within_an_object_answer_for_it_and_the_loss_falls_as_they_do() -> None:
    points, _ = point_grid(64, 96)
    boxes, labels = (
        torch.tensor([[8.0, 8, 40, 40], [50, 20, 53, 23]]),
        torch.tensor([1, 0]),
    )  # one without a point in it
    targets = torch.full((1, 4, 5), -1.0)
    targets[0, :2] = torch.cat([boxes, labels[:, None].float()], 1)
    good = outputs_of(boxes, points, labels, 3)
    assigned = assign(good, targets, points)
    assert set(assigned.labels[assigned.positive].tolist()) == {0, 1}
    for point, box in zip(points[assigned.positive[0]], assigned.boxes[assigned.positive], strict=True):
        assert bool(((point > box[:2] - 4) & (point < box[2:] + 4)).all())
    loss = DetectionLoss(points)
    bad = Outputs(-good.classes, good.quality, good.boxes + 5)
    assert float(loss(good, targets)) < float(loss(bad, targets))
    nothing = torch.full((1, 4, 5), -1.0)
    assert torch.isfinite(loss(good, nothing))
    assert int(objects(targets)) == 2


def test_what_is_kept_is_what_was_said_once_each() -> None:
    points, _ = point_grid(64, 96)
    boxes, labels = torch.tensor([[8.0, 8, 40, 40], [50, 20, 80, 50]]), torch.tensor([1, 0])
    kept = select(outputs_of(boxes, points, labels, 3))
    assert kept.shape == (1, MOST, 6)
    sure = kept[0][kept[0, :, 4] > 0.5]
    assert sorted(sure[:, 5].tolist()) == [0, 1]
    assert {tuple(box) for box in sure[:, :4].tolist()} == {tuple(box) for box in boxes.tolist()}


def test_overlap_is_that_of_torchvision() -> None:
    from torchvision.ops import box_iou, generalized_box_iou

    corners = torch.rand(2, 9, 2) * 50
    a, b = (torch.cat([low, low + torch.rand(9, 2) * 40], 1) for low in corners)
    assert torch.allclose(paired_iou(a[:, None], b[None]), box_iou(a, b), atol=1e-5)
    assert torch.allclose(generalized_iou(a[:, None], b[None]), generalized_box_iou(a, b), atol=1e-5)


def test_a_classifier_of_torchvision_is_a_backbone_with_its_weights(tmp_path: Path) -> None:
    from torchvision.models import resnet18

    torch.manual_seed(1)
    weights = resnet18().state_dict()
    torch.save(weights, tmp_path / "resnet18.pt")
    network = build("tiny", 3, (64, 96), "torchvision/resnet18", str(tmp_path / "resnet18.pt"))
    state = network.backbone.state_dict()
    assert torch.equal(state["levels.0.0.weight"], weights["conv1.weight"])
    assert torch.equal(state["levels.3.0.1.conv2.weight"], weights["layer4.1.conv2.weight"])
    assert network(torch.zeros(2, 3, 64, 96))[0].shape == (2, len(point_grid(64, 96)[0]), 3)
    for name in ("mobilenet_v3_small", "efficientnet_b0"):
        channels = build("tiny", 3, (64, 64), f"torchvision/{name}").backbone.channels
        assert len(channels) == 4  # type: ignore[arg-type]


def test_what_is_no_backbone_is_said() -> None:
    with pytest.raises(UserError, match="torchvision/vit_b_16"):
        build("tiny", 3, (64, 64), "torchvision/vit_b_16")
    with pytest.raises(UserError, match="there are none for our backbone"):
        DetectConfig(weights="imagenet").check()
    with pytest.raises(UserError, match="no classifier 'resnet1'"):
        DetectConfig(backbone="torchvision/resnet1").resolve().check()


def test_answers_go_out_as_coco_has_them_and_drawn(trained: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "photo-7.png").write_bytes(frames.png(scenes.shapes(0).splits["test"][0].image))
    (tmp_path / "no.png").write_bytes(b"nothing")
    command = [
        "-m",
        "common.predict",
        trained["run"],
        tmp_path,
        "--out",
        tmp_path / "x.json",
        "--draw",
        tmp_path / "seen",
    ]
    assert warm(*command).returncode == 1  # one of the files is none
    results = json.loads((tmp_path / "x.json").read_text())
    assert {one["image_id"] for one in results} == {7}
    assert set(results[0]) == {"image_id", "category_id", "bbox", "score"}
    assert results[0]["category_id"] in (1, 2, 3)
    (drawn,) = (tmp_path / "seen").iterdir()
    assert Image.open(drawn).size == (64, 64)
    assert "is there already" in mistake(warm(*command))


def test_what_is_not_drawn_is_said() -> None:
    golden = Path(__file__).parent / "golden" / "nlp.classify"
    assert "can't be drawn" in mistake(warm("-m", "common.predict", golden, "--value", "a", "--draw", "seen"))


def test_canvases_need_not_be_multiples_of_the_coarsest_stride() -> None:
    network = build("tiny", 3, (48, 80))
    classes, quality, boxes = network(torch.zeros(2, 3, 48, 80))
    assert classes.shape[1] == quality.shape[1] == boxes.shape[1] == len(point_grid(48, 80)[0])


# --- augmentation ------------------------------------------------------------------------------------------


def blocks(count: int = 4) -> tuple[Fitted, Tensor]:
    """Black images with one white rectangle each, and the boxes of them."""
    images, targets = torch.zeros(count, 3, 64, 96, dtype=torch.uint8), torch.full((count, 2, 5), -1.0)
    for index in range(count):
        x, y = 8 + 14 * index, 6 + 9 * index
        images[index, :, y : y + 20, x : x + 24] = 255
        targets[index, 0] = torch.tensor([x, y, x + 24, y + 20, index])
    return Fitted(images, torch.tensor([[96, 64]] * count)), targets


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_boxes_move_with_their_pixels(share: float) -> None:
    torch.manual_seed(3)
    augment = Mosaic(share, 1.3, True, 0.0, (0.0, 0.0, 0.0))
    seen = 0
    for _ in range(8):
        fitted, targets = augment(*blocks())
        assert targets.shape == (4, 8, 5)
        for image, found in zip(fitted.image, targets, strict=True):
            for left, top, right, bottom, _label in found[found[:, 4] >= 0].tolist():
                inner = image[0, round(top) + 2 : round(bottom) - 2, round(left) + 2 : round(right) - 2]
                assert inner.numel() == 0 or float(inner.min()) > 200  # all of the box is white
                seen += 1
            lit = (image[0] > 127).sum()
            area = sum((r - x) * (b - y) for x, y, r, b, label in found.tolist() if label >= 0)
            assert float(lit) <= area * 1.15 + 0.3 * 24 * 20 * 1.7 * 4 + 60  # only slivers have no box
    assert seen > 20


# --- scenes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [scenes.shapes, scenes.digits])
def test_boxes_and_masks_of_scenes_are_exact_and_repeatable(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes, "COUNTS", {"train": 6, "valid": 3, "test": 3})
    made, again, other = make(0), make(0), make(1)
    assert list(made.splits) == ["train", "valid", "test"]
    assert same(made.splits["train"], again.splits["train"])
    assert not same(made.splits["train"], other.splits["train"])
    for scene in made.splits["train"]:
        for number, (left, top, right, bottom) in enumerate(scene.boxes.int().tolist(), start=1):
            rows, columns = (scene.instances == number).nonzero(as_tuple=True)
            assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (left, top, right, bottom)
            inside = scene.classes[scene.instances == number]
            assert (inside == scene.labels[number - 1] + 1).all()


# --- annotations of others ---------------------------------------------------------------------------------


def image(path: Path, size: tuple[int, int] = (60, 40), turned: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if turned:
        exif[0x0112] = turned
    Image.new("RGB", size, "gray").save(path, exif=exif)


def voc_file(
    root: Path, stem: str, *boxes: tuple[float, ...], size: tuple[int, int] = (60, 40), name: str = "cat"
) -> None:
    def corners(box: tuple[float, ...]) -> str:
        return "".join(f"<{s}>{v}</{s}>" for s, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))

    inside = "".join(f"<object><name>{name}</name><bndbox>{corners(box)}</bndbox></object>" for box in boxes)
    (root / "Annotations").mkdir(parents=True, exist_ok=True)
    text = f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{inside}</annotation>"
    (root / "Annotations" / f"{stem}.xml").write_text(text)
    image(root / "JPEGImages" / f"{stem}.jpg")


def coco_file(path: Path, annotations: list[dict[str, Any]], count: int = 8, **more: Any) -> None:
    for number in range(count):
        image(path.parent / f"{number}.jpg")
    images = [{"id": 10 * n, "file_name": f"{n}.jpg", "width": 60, "height": 40, **more} for n in range(count)]
    categories = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def test_voc_is_read_with_pixels_from_one_and_what_is_wrong_is_counted(tmp_path: Path) -> None:
    for number in range(10):
        voc_file(tmp_path, f"{number:02}", (1, 1, 20, 30), (5, 5, 5, 5), (10, 10, 61, 40))
    found = formats.voc(tmp_path, 0)
    files, truths = found.splits["train"]
    assert len(files) == len(truths) == 7
    assert truths[0].boxes.tolist() == [[0, 0, 20, 30], [9, 9, 60, 40]]
    assert "10 boxes without area left out; 10 boxes clipped" in found.provenance


def test_coco_has_categories_by_id_and_crowds_that_do_not_count(tmp_path: Path) -> None:
    rows = [
        {"id": n, "image_id": 10 * n, "category_id": 7 if n else 3, "bbox": [2, 3, 10, 20], "iscrowd": int(n == 1)}
        for n in range(8)
    ]
    coco_file(tmp_path / "all.json", rows)
    found = formats.coco(tmp_path / "all.json", 0)
    assert found.classes == ["cat", "dog"]
    truths = [truth for _, part in found.splits.values() for truth in part]
    assert sorted(int(truth.labels[0]) for truth in truths) == [0] + 7 * [1]
    assert sum(int(truth.ignored.sum()) for truth in truths) == 1
    assert truths[0].boxes.tolist() == [[2, 3, 12, 23]]


def test_yolo_has_shares_of_the_image_and_images_without_labels(tmp_path: Path) -> None:
    for number in range(8):
        image(tmp_path / "images" / f"{number}.jpg")
        (tmp_path / "labels").mkdir(exist_ok=True)
        if number:
            (tmp_path / "labels" / f"{number}.txt").write_text("1 0.5 0.5 0.5 0.25\n")
    (tmp_path / "data.yaml").write_text("names: {0: cat, 1: dog}\n")
    found = formats.yolo(tmp_path, 0)
    truths = [truth for _, part in found.splits.values() for truth in part]
    assert found.classes == ["cat", "dog"]
    assert sorted(len(truth.labels) for truth in truths) == [0] + 7 * [1]
    full = next(truth for truth in truths if len(truth.labels))
    assert full.boxes.tolist() == [[15, 15, 45, 25]]


def one_coco(**changed: Any) -> list[dict[str, Any]]:
    return [{"id": 5, "image_id": 0, "category_id": 3, "bbox": [2, 3, 10, 20]} | changed]


MISTAKES = {
    "ends before it begins": lambda p: voc_file(p / "v", "a", (30, 10, 20, 20)),
    "reaches out of its image of 60 × 40": lambda p: voc_file(p / "v", "a", (10, 10, 90, 20)),
    "within 0..1": lambda p: voc_file(p / "v", "a", (0.1, 0.1, 0.5, 0.5)),
    "says 40 × 60 px": lambda p: voc_file(p / "v", "a", (1, 1, 20, 20), size=(40, 60)),
    "there is no category 1": lambda p: coco_file(p / "c.json", one_coco(category_id=1)),
    "there is no image 3": lambda p: coco_file(p / "c.json", one_coco(image_id=3)),
    "its bbox is [1, 2, 3]": lambda p: coco_file(p / "c.json", one_coco(bbox=[1, 2, 3])),
    "annotation 5": lambda p: coco_file(p / "c.json", one_coco(bbox="none")),
    "these may be left, top, right and bottom": lambda p: coco_file(p / "c.json", one_coco(bbox=[30, 10, 55, 30])),
    "all boxes lie within 0..1": lambda p: coco_file(p / "c.json", one_coco(bbox=[0.1, 0.1, 0.5, 0.5])),
}


@pytest.mark.parametrize("said", MISTAKES)
def test_what_is_wrong_with_an_annotation_is_one_line(said: str, tmp_path: Path) -> None:
    MISTAKES[said](tmp_path)
    voc = (tmp_path / "v").exists()
    with pytest.raises(UserError) as raised:
        formats.voc(tmp_path / "v", 0) if voc else formats.coco(tmp_path / "c.json", 0)
    text = str(raised.value)
    assert said in text
    assert ("a.xml" if voc else "c.json") in text
    assert "\n" not in raised.value.what


def test_an_image_that_is_turned_must_be_annotated_as_it_is_shown(tmp_path: Path) -> None:
    voc_file(tmp_path, "a", (1, 1, 20, 20))
    image(tmp_path / "JPEGImages" / "a.jpg", turned=6)
    with pytest.raises(UserError, match="EXIF"):
        formats.voc(tmp_path, 0)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("2 0.5 0.5 0.1 0.1", "there is no class 2; they go from 0 to 1"),
        ("1 30 20 10 10", "no shares of the image"),
        ("1 0.5 0.5 0.1", "has 4 numbers"),
        ("cat 0.5 0.5 0.1 0.1", "no row of numbers"),
    ],
)
def test_a_wrong_line_of_yolo_is_named(line: str, said: str, tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(UserError, match=re.escape(said)) as raised:
        formats.yolo(tmp_path, 0)
    assert "a.txt, line 2" in raised.value.what


def test_a_mistake_in_the_data_ends_the_command_with_one_line(tmp_path: Path) -> None:
    coco_file(tmp_path / "c.json", one_coco(category_id=9))
    text = mistake(warm("-m", "vision.detect", "--data", f"coco:{tmp_path / 'c.json'}", "--out", tmp_path / "out"))
    assert "annotation 5: there is no category 9" in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("limit", [0, sources.LIMIT])
def test_a_data_set_of_ones_own_is_trained_on(limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few images, one without objects; read anew by workers where they do not fit in memory."""
    monkeypatch.setattr(sources, "LIMIT", limit)
    rows = [{"id": n, "image_id": 10 * n, "category_id": 7, "bbox": [2, 3, 30, 30]} for n in range(1, 12)]
    coco_file(tmp_path / "c.json", rows, count=12)
    settings = {"data": f"coco:{tmp_path / 'c.json'}", "epochs": 1, "size": "tiny", "device": "cpu"}
    result = execute(example, Options(quiet=True, out=str(tmp_path / "out")), settings)
    assert "map" in result["metrics"]


def test_canvases_suit_the_photos() -> None:
    wide, mixed = torch.tensor([[640.0, 480.0]] * 4), torch.tensor([[640.0, 480.0]] * 3 + [[480.0, 640.0]] * 2)
    assert sources.canvas_for(wide, None) == (240, 320)
    assert sources.canvas_for(wide, 640) == (480, 640)
    assert sources.canvas_for(wide.flip(1), None) == (320, 240)
    assert sources.canvas_for(mixed, None) == (320, 320)
    assert sources.canvas_for(torch.tensor([[96.0, 128.0]]), None) == (128, 96)


def test_annotations_go_out_as_coco_has_them() -> None:
    truth = Truth.of(torch.tensor([[1, 2, 11, 22]]), torch.tensor([1]))
    said, results = coco_files(["a", "b"], [torch.tensor([[1, 2, 11, 22, 0.5, 1]])], [truth])
    assert said["annotations"][0]["bbox"] == results[0]["bbox"] == [1, 2, 10, 20]
    assert results[0]["category_id"] == 2
    assert coco(["a", "b"], [torch.tensor([[1, 2, 11, 22, 0.5, 1]])], [truth]).stats[0] == pytest.approx(1)
