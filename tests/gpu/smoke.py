"""One example, tiny, on a device: train, kill and resume, predict, evaluate, export, serve.

python -m tests.gpu.smoke vision.train --device cuda
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from common import artifact, example
from common.errors import UserError
from common.export.capture import Watched
from common.export.export import export
from common.machine import nests
from tests.gpu.say import Skip, checked
from tests.helpers import ROOT, environment, final_weights, only_run, same
from tests.serve_helpers import address

# Outputs in other orders of sums, and in cuDNN's TF32 for convolutions: relative to the largest.
OUTPUTS = 5e-3
WEIGHTS = 5e-2  # of runs that say themselves that they can't be repeated


class Smoke:
    """The checks of one example; each may rely on the training that was first."""

    def __init__(self, name: str, device: str, out: Path) -> None:
        self.name, self.device, self.out = name, device, out
        self.result: dict[str, Any] = {}
        self.steps: list[int] = []  # of the checkpoints that the killed training had

    def run(self) -> None:
        if checked("train", self.train):
            for check in (self.resume, self.predict, self.evaluate, self.export, self.serve):
                checked(check.__name__, check)

    def start(self, place: str, *more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", self.name, "--out", str(self.out / place), "--device", self.device, "--json"]
        command += ["--checkpoint-seconds", "0", *more]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=ROOT, env=environment(), text=True, **pipes)  # type: ignore[call-overload]

    def train(self) -> str:
        killed, whole = self.start("killed", "--tiny"), self.start("whole", "--tiny")  # two starts cost what one does
        self.steps = kill_between_checkpoints(killed, self.out / "killed" / self.name)
        self.result = ended(whole)
        return f"{self.result['seconds']['train']:.1f} s, peak {self.result['peak_memory_mb']:.0f} MB"

    def resume(self) -> str:
        if not self.steps:
            raise Skip("the training ended before it could be killed")
        again = ended(self.start("killed", "--resume"))
        ours, whole = (final_weights(only_run(self.out / place, self.name)) for place in ("killed", "whole"))
        loose = {*self.result.get("not_repeatable", ()), *again.get("not_repeatable", ())}
        at = f"killed after step {max(self.steps)} of {self.result['steps']}"
        if same(ours, whole):
            return f"{at}; bit-equal"
        if not loose:
            raise AssertionError(f"{at}; other weights, and the run had said nothing: {worst(ours, whole)}")
        if any(difference(ours[n], whole[n]) > WEIGHTS for n in whole if whole[n].is_floating_point()):
            raise AssertionError(f"{at}; far off: {worst(ours, whole)}")
        return f"{at}; not bit-equal, as the run had said ({', '.join(sorted(loose))}): {worst(ours, whole)}"

    def predict(self) -> str:
        """A model that was trained there answers on the CPU; its network gives the same outputs on the device."""
        watched = Watched.of(artifact.load(self.folder))
        predictor = example.get(self.name).load(watched)
        raw = predictor.input.sample()
        with watched.noting() as calls:
            rows = predictor.predict([predictor.input.decode(raw)] * 2)
        assert predictor.answer.is_row(rows[0]), rows[0]
        network = watched.network().to(self.device)
        with torch.inference_mode():
            off = max(
                difference(ours.cpu(), theirs)
                for call in calls
                for ours, theirs in zip(
                    nests.tensors(network(*nests.move(call.inputs, torch.device(self.device)))),
                    nests.tensors(call.output),
                    strict=True,
                )
            )
        assert off <= OUTPUTS, f"outputs on {self.device} differ from the CPU's by {off:.2g} of the largest"
        return f"CPU and {self.device} differ by {off:.1g} of the largest output"

    def evaluate(self) -> str:
        saved = artifact.load(self.folder)
        declared = example.get(self.name)
        metrics = declared.evaluate(saved, declared.config().with_values(saved.config)).values
        name = declared.headline
        here, there = metrics[name], self.result["metrics"][name]
        assert abs(here - there) <= 0.02 * max(1.0, abs(there)), f"{name} {there} after training, {here} when evaluated"
        return f"{name} {here:.4g}, after training {there:.4g}"

    def export(self) -> str:
        try:
            _, row = export(self.folder, "torch-export", "none", None)
        except UserError as error:
            if "not installed" in str(error.what):
                raise Skip(str(error.what)) from error
            raise
        return row.numbers()

    def serve(self) -> str:
        for package in ("fastapi", "uvicorn", "prometheus_client"):
            try:
                import_module(package)
            except ImportError as error:  # of the package, or of what it needs itself
                raise Skip(f"{package} can't be used here: {error}") from error
        saved = artifact.load(self.folder)
        asked = example.get(self.name).load(saved).input
        raw = asked.sample()
        one = asked.start() or asked.to_text(raw)
        body = json.dumps({"instances": [one]}).encode()
        command = [sys.executable, "-m", "common.serve", str(self.folder), "--port", "0"]
        pipes: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, cwd=ROOT, env=environment(), text=True, **pipes) as server:
            try:
                url = f"{address(server)}/invocations"
                request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
                with urllib.request.urlopen(request, timeout=60) as answer:
                    assert answer.status == 200, answer.status
                    return f"{len(answer.read()):,} bytes"
            finally:
                server.terminate()

    @property
    def folder(self) -> Path:
        return Path(self.result["run"])


def ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The result of a training that ends well."""
    out, err = process.communicate()
    if "No module named" in err:
        raise Skip(err.strip().splitlines()[-1])
    if process.returncode:
        lines = [line for line in err.splitlines() if line.strip()]
        raise AssertionError(f"exit code {process.returncode}: {' | '.join(lines[-2:])}")
    value: dict[str, Any] = json.loads(out.splitlines()[-1])
    return value


def kill_between_checkpoints(process: subprocess.Popen[str], runs: Path) -> list[int]:
    """`kill -9` once a run has two checkpoints, and the steps of those; none if it ended before, well or not."""
    while process.poll() is None and len(list(runs.glob("*/checkpoints/step-*.pt"))) < 2:
        time.sleep(0.005)
    process.kill()
    process.communicate()
    if process.returncode >= 0:  # what went wrong, the whole training says too
        return []
    return [int(file.stem.removeprefix("step-")) for file in runs.glob("*/checkpoints/step-*.pt")]


def difference(left: torch.Tensor, right: torch.Tensor) -> float:
    """The largest difference, of the largest value or of 1e-3."""
    return float((left.float() - right.float()).abs().max() / right.float().abs().max().clamp(min=1e-3))


def worst(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> str:
    found = {n: difference(left[n], right[n]) for n in right if right[n].numel()}
    name = max(found, key=lambda n: found[n])
    return f"{name} by {found[name]:.2g} of its largest weight"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as out:
        Smoke(options.name, options.device, Path(out)).run()


if __name__ == "__main__":
    main()
