"""common.export: every example's export gives the eager network's outputs, and is used like the run."""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common import artifact, example, trust
from common.command.arguments import Options
from common.command.execute import execute
from common.export import capture, compiled, formats, table
from common.export.capture import Watched
from common.export.compare import Comparison
from common.export.export import export
from common.machine import nests
from common.program import Export
from tests.test_golden import close

EXAMPLES = example.names()
BATCHES = (1, 3, 32)
Runs = Callable[..., Path]
Exports = Callable[..., tuple[Path, Comparison]]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The folder of a tiny run of an example, trained when it is first asked for."""
    done: dict[tuple[str, str], Path] = {}

    def run(name: str, **said: Any) -> Path:
        key = (name, json.dumps(said))
        if key not in done:
            out = str(tmp_path_factory.mktemp("exported"))
            done[key] = Path(execute(example.get(name), Options(out=out, tiny=True, quiet=True), said)["run"])
        return done[key]

    return run


@pytest.fixture(scope="session")
def exports() -> Exports:
    """An export of a run and how it compares, made when it is first asked for."""
    return cache(lambda run, format, kind="none", batch=None: export(run, format, kind, batch))


def network(folder: Path) -> tuple[nn.Module, capture.Sample]:
    """The network of an artifact, and inputs for it."""
    saved = artifact.load(folder)
    watched = Watched.of(saved)
    sample = capture.sample(watched, example.get(saved.example).load(watched))
    return watched.network(), sample


def largest_difference(eager: Path, exported: Path, length: int | None = None) -> float:
    """Between outputs, over batches of several sizes of random numbers, or of texts of a length."""
    left, sample = network(eager)
    right, _ = network(exported)
    found = 0.0
    for size in BATCHES:
        inputs = nests.take(sample.inputs, torch.arange(size) % nests.size(sample.inputs))
        inputs = nests.change(
            inputs,
            # Of integers, texts are turned round and made shorter; what is one number for each sample stays.
            lambda x: x + torch.randn_like(x) if x.is_floating_point() else x[:, :length].flip(1) if x.dim() > 1 else x,
        )
        with torch.inference_mode():
            outputs = nests.tensors(left(*inputs)), nests.tensors(right(*inputs))
        for a, b in zip(*outputs, strict=True):
            assert a.shape == b.shape
            found = max(found, ((a - b).abs().max() / a.abs().max().clamp(min=1)).item())
    return found


def answers(folder: Path) -> list[dict[str, Any]]:
    saved = artifact.load(folder)
    predictor = example.get(saved.example).load(saved)
    return predictor.predict([predictor.input.decode(predictor.input.sample())] * 3)


def same_answers(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> bool:
    """Answers by name equal, numbers up to rounding; pictures have pixels of their own rounding."""
    for a, b in zip(left, right, strict=True):
        for key, value in a.items():
            if key != "png" and not close(value, b[key], share=1e-3):
                return False
    return True


@pytest.mark.parametrize("format", ["torch-export", pytest.param("onnx", marks=pytest.mark.matrix)])
@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_exports_and_is_used_like_its_run(runs: Runs, exports: Exports, name: str, format: str) -> None:
    run = runs(name)
    folder, row = exports(run, format)
    assert folder == run / "exports" / format
    assert row.value == pytest.approx(row.original, abs=1e-3 * max(1, abs(row.original)))
    assert row.compared > 0
    assert largest_difference(run, folder) < 1e-4
    assert same_answers(answers(run), answers(folder))
    assert not (folder / "model.safetensors").exists()


def test_texts_of_any_length_go_through_an_export(runs: Runs, exports: Exports) -> None:
    run = runs("nlp.classify", model="transformer", ngrams=2, epochs=1)
    folder, _ = exports(run, "onnx")
    for length in (1, 2, 3, None):
        assert largest_difference(run, folder, length) < 1e-4


@pytest.mark.parametrize(
    ("name", "format", "kind"),
    [
        ("vision.train", "torch-export", "int8"),
        ("vision.train", "onnx", "int8-weight"),
        ("nlp.classify", "torch-export", "int8-weight"),
        ("nlp.classify", "onnx", "int8"),
    ],
)
def test_int8_keeps_the_metric_and_holds_weights_of_8_bits(
    runs: Runs, exports: Exports, name: str, format: str, kind: str
) -> None:
    _, row = exports(runs(name), format, kind)
    assert row.difference > 0  # it is not the fp32 model
    assert abs(row.value - row.original) <= 0.02
    if format == "onnx":  # the others carry much besides their weights
        assert row.bytes < 0.6 * row.original_bytes


def test_attention_norms_and_masks_stay_in_floats(runs: Runs, exports: Exports) -> None:
    """Sums and norms in 8 bits cost a pretrained Transformer ten points; masks have no range at all."""
    import onnx

    run = runs("nlp.classify", model="transformer", ngrams=2, epochs=1)
    graph = onnx.load(exports(run, "onnx", "int8")[0] / "model.onnx").graph
    small = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    users = {node.op_type for node in graph.node if small.intersection(node.input)}
    assert {"MatMul", "Gather", "LayerNormalization"} <= {node.op_type for node in graph.node}
    assert "MatMul" in users
    assert not users & {"LayerNormalization", "Softmax", "Where"}
    weights = {
        tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT and tensor.dims
    }
    assert not {"ngrams.weight", "ngrams.ratios"} & weights  # their product is one table
    assert exports(run, "torch-export", "int8")[1].difference > 0


def test_int8_weights_are_right_on_every_cpu(runs: Runs, exports: Exports, tmp_path: Path) -> None:
    """Without VNNI two products are added in 16 bits, and what does not fit is cut: seven bits for weights do fit."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    file = exports(runs("vision.train"), "onnx", "int8")[0] / "model.onnx"
    assert 32 < formats.largest_weight(file) <= formats.SEVEN_BITS
    assert 2 * 255 * formats.SEVEN_BITS < 2**15
    wide = numpy_helper.from_array(np.array([-128, 3], np.int8), "w")
    graph = helper.make_graph([], "wide", [], [], [wide])
    onnx.save(helper.make_model(graph), tmp_path / "wide.onnx")
    assert formats.largest_weight(tmp_path / "wide.onnx") == 128


def test_int8_of_a_generator_takes_its_ranges_from_seeds(runs: Runs) -> None:
    _, row = export(runs("generative.gan"), "onnx", "int8", None, tolerance=1e9)
    assert 0 < row.difference < 0.5


def test_bf16_keeps_float32_at_its_edges(runs: Runs, exports: Exports) -> None:
    run = runs("vision.train")
    folder, row = exports(run, "torch-export", "bf16")
    model, sample = network(folder)
    assert model(*sample.inputs).dtype == torch.float32
    assert 1e-5 < row.difference < 0.5
    assert row.bytes < exports(run, "torch-export")[1].bytes


def test_a_fixed_batch_takes_any_number_of_samples(runs: Runs, exports: Exports) -> None:
    run = runs("research.ladder")
    folder, _ = exports(run, "onnx", "none", 4)
    import onnx

    graph = onnx.load(folder / "model.onnx").graph
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_value == 4
    assert largest_difference(run, folder) < 1e-4


@pytest.mark.matrix
def test_aoti_compiles_the_smallest_model(runs: Runs, exports: Exports) -> None:
    run = runs("research.ladder")
    folder, _ = exports(run, "aoti")
    assert largest_difference(run, folder) < 1e-4
    assert same_answers(answers(run), answers(folder))


def test_evaluate_predict_and_serve_take_an_export(
    runs: Runs, exports: Exports, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from fastapi.testclient import TestClient

    from common import evaluate
    from common.predict import __main__ as predict
    from common.serve.app import create_app
    from common.serve.models import load_models

    run = runs("vision.train")
    folder, row = exports(run, "onnx")
    evaluate.main(str(folder))
    assert json.loads(capsys.readouterr().out) == row.metrics

    image = example.get("vision.train").load(artifact.load(run)).input.sample()
    (tmp_path / "a.png").write_bytes(image)
    (by_run, by_export) = (_predicted(predict.main, path, tmp_path) for path in (run, folder))
    assert same_answers([by_run], [by_export])

    with ThreadPoolExecutor(1) as decoders:
        app = create_app(load_models([f"exported={folder}"], decoders))
        with TestClient(app) as client:
            answer = client.post("/v1/models/exported/predict", content=image, headers={"content-type": "image/png"})
    assert answer.status_code == 200
    assert by_run["class"] in answer.text


def _predicted(main: Any, model: Path, folder: Path) -> dict[str, Any]:
    out = folder / f"{model.name}.jsonl"
    assert main(str(model), [str(folder / "a.png")], out=str(out)) == 0
    row: dict[str, Any] = json.loads(out.read_text())
    return row


def test_the_table_has_every_export_of_the_run(runs: Runs, exports: Exports) -> None:
    run = runs("research.ladder")
    for format in ("torch-export", "onnx"):
        exports(run, format)
    (run / "exports" / ".onnx.unfinished").mkdir()
    (run / "exports" / ".onnx.unfinished" / "export.json").write_text("{}")
    table.write(run / "exports", "research.ladder")
    rows = json.loads((run / "exports" / "export.json").read_text())
    assert {"onnx", "torch-export"} <= {row["format"] for row in rows}
    html = (run / "exports" / "export.html").read_text()
    assert "onnx" in html
    assert "torch-export" in html
    (row,) = (row for row in rows if row["format"] == "onnx")
    assert row == json.loads((run / "exports" / "onnx" / "export.json").read_text())
    assert row["milliseconds"].keys() == {"1", "32"}
    assert row["bytes"] == (run / "exports" / "onnx" / "model.onnx").stat().st_size


def test_a_pretrained_network_exports(runs: Runs, tmp_path: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    from common.data.texts.sources import load_texts
    from nlp.tokens import train_tokenizer

    tokenizer = train_tokenizer(load_texts("synthetic").train.texts, 64, 500)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    fast.save_pretrained(tmp_path)
    config = BertConfig(
        vocab_size=500,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    run = runs("nlp.classify", model=f"hf:{tmp_path}", epochs=1)
    folder, _ = export(run, "onnx", "none", None)
    assert largest_difference(run, folder) < 1e-4


def test_a_network_is_compiled_once_and_a_damaged_package_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    monkeypatch.setattr(compiled, "SAY_EVERY", 0.05)
    times = []

    def compile_slowly(program: Any) -> bytes:
        times.append(1)
        time.sleep(0.2)
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            archive.writestr("model.so", f"machine code {len(times)}")
        return content.getvalue()

    monkeypatch.setattr(compiled, "_compile", compile_slowly)

    def program(seed: int) -> Any:
        torch.manual_seed(seed)
        return torch.export.export(torch.nn.Linear(3, 2), (torch.zeros(2, 3),))

    first = compiled.package(program(0))
    assert "still at work after" in capsys.readouterr().err
    assert compiled.package(program(0)) == first
    assert "compiled before" in capsys.readouterr().err
    assert compiled.package(program(1)) != first  # other weights
    assert len(times) == 2
    for kept in (tmp_path / "pytorch-use-cases").glob("*.pt2"):
        kept.write_bytes(kept.read_bytes()[:-30])
    compiled.package(program(0))
    assert len(times) == 3
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/nowhere")  # nothing can be kept: it is compiled all the same
    compiled.package(program(0))
    assert len(times) == 4


class Pair(nn.Module):
    """{"a": [B, 3], "b": ([B, T],)} to {"sum": [B], "parts": ([B, 3], [B, T])}."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, given: dict[str, Any], scale: Tensor) -> dict[str, Any]:
        (b,) = given["b"]
        a = self.linear(given["a"])
        return {"sum": a.sum(1) + b.sum(1) * scale, "parts": (a, 2 * b)}


@pytest.mark.parametrize("format", ["torch-export", "onnx"])
@pytest.mark.parametrize("batch", [None, 4])
def test_a_network_of_nests_is_exported(format: str, batch: int | None, tmp_path: Path) -> None:
    def inputs(size: int, length: int) -> tuple[Any, ...]:
        return {"a": torch.randn(size, 3), "b": (torch.randn(size, length),)}, torch.rand(size)

    network = Pair().eval()
    program = formats.trace(network, capture.Sample(inputs(2, 5), ((0,), (0, 1), (0,))), batch, format)
    path = tmp_path / formats.FILES[format]
    formats.write(program, format, path)
    trust.remember(path)
    outputs = json.loads(json.dumps(nests.outline(network(*inputs(2, 5)))))
    exported = Export(format, "none", batch, path.name, {}, outputs).put_into(nn.Module(), tmp_path)
    for size in (1, 3, 9):
        given = inputs(size, 7)
        ours, theirs = exported(*given), network(*given)
        assert ours.keys() == theirs.keys()
        for left, right in zip(nests.tensors(ours), nests.tensors(theirs), strict=True):
            torch.testing.assert_close(left, right)
