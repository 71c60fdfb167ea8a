"""The three libraries that must match each other do, and nothing heavy is imported unasked."""

from __future__ import annotations

import ast
import json

import grimp

from common.example import domains
from tests.helpers import ROOT, python

BY_NAME = {"import_module", "__import__", "run_module"}
HEAVY = [
    "torchvision",
    "torchaudio",
    "sklearn",
    "matplotlib",
    "tensorboard",
    "PIL",
    "pandas",
    "transformers",
    "fastapi",
    "prometheus_client",
    "optuna",
    "onnx",
    "mlflow",
]


def test_torch_torchvision_and_torchaudio_work_together() -> None:
    import torch
    import torchaudio
    import torchvision

    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]])
    kept = torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)  # compiled against this very torch
    assert kept.tolist() == [0, 2]
    spectrogram = torchaudio.transforms.Spectrogram(n_fft=64)(torch.zeros(1, 640))
    assert spectrogram.shape == (1, 33, 21)


def test_importing_loads_no_heavy_library() -> None:
    modules = (
        "common.cli, common.predict.__main__, common.demo, common.tune.__main__, common.export.__main__, vision.train"
    )
    code = f"import {modules}, sys, json; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    process = python("-c", code)
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout) == []


def test_these_commands_come_up_without_torch() -> None:
    modules = ["common.predict.__main__", "common.evaluate", "common.serve.__main__", "common.demo"]
    modules += [f"common.sagemaker.{name}" for name in ("training.launch", "jobs", "transform.main", "hosting.main")]
    process = python("-c", f"import {', '.join(modules)}, sys; print('torch' in sys.modules)")
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip() == "False"


def test_only_the_catalogue_imports_our_modules_by_their_name() -> None:
    """An import in a string is an arrow that no drawing of the project shows."""
    found = set()
    for folder in (ROOT / "common", *domains()):
        for file in folder.rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in BY_NAME:
                    found.add(file.relative_to(ROOT).as_posix())
    # rl.environments imports libraries of environments, which are not ours.
    assert found == {"common/example.py", "rl/environments.py"}


def test_domains_import_neither_each_other_nor_are_they_imported_by_common() -> None:
    """Beside the column of pyproject.toml; here, because a domain is found and listed nowhere."""
    graph = grimp.build_graph("common", *(folder.name for folder in domains()))
    arrows = [(one, other) for one in graph.modules for other in graph.find_modules_directly_imported_by(one)]
    tops = {(one.partition(".")[0], other.partition(".")[0]) for one, other in arrows}
    assert {(one, other) for one, other in tops if other not in (one, "common")} == set()


def test_the_sagemaker_folder_is_no_package() -> None:
    assert not (ROOT / "sagemaker" / "__init__.py").exists()
