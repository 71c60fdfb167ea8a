"""First paragraphs of the docstrings of installed packages, each with the package it is from."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import platform
import random
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from common.data.texts.splits import TextData, Texts, fingerprint, split

PACKAGES = {"python": "", "torch": "torch", "numpy": "numpy", "scikit-learn": "sklearn"}  # class: package
PER_CLASS = 1000
WORDS = (4, 120)  # in a paragraph that is kept
LARGEST = 300_000  # bytes of a file that is read
# Names of the packages, alone or within a longer name, and how they are imported.
GIVEAWAYS = re.compile(
    r"[\w.-]*(?:torch|numpy|scipy|sklearn|scikit|python|aten|caffe)[\w.-]*|\bnp\b[.\w]*|\bpy\w+", re.I
)
MASK = "PACKAGE"


def docstrings(seed: int, limit: int | None) -> TextData:
    """Which of Python's standard library, PyTorch, NumPy and scikit-learn does a docstring belong to?

    Files are read and parsed, never imported. Names of the packages are masked, and a text that two packages share
    is left out. At most PER_CLASS texts of each package, from files in a fixed random order; 80 / 10 / 10 %.
    """
    found: dict[str, tuple[str, int]] = {}  # fingerprint: text, class
    shared: set[str] = set()
    for number, package in enumerate(PACKAGES.values()):
        mine: dict[str, str] = {}
        for text in _paragraphs(package):
            mine.setdefault(fingerprint(text), text)
            if len(mine) >= PER_CLASS:
                break
        shared |= mine.keys() & found.keys()
        found |= {key: (text, number) for key, text in mine.items() if key not in found}
    kept = [pair for key, pair in found.items() if key not in shared]
    texts = Texts([text for text, _ in kept], torch.tensor([number for _, number in kept]))
    counts = texts.targets.bincount(minlength=len(PACKAGES)).tolist()
    versions = [platform.python_version()] + [importlib.metadata.version(name) for name in list(PACKAGES)[1:]]
    parts = [f"{name} {v} ({n:,})" for name, v, n in zip(PACKAGES, versions, counts, strict=True)]
    source = (
        f"docstrings: first paragraphs from {', '.join(parts)}, package names masked, {len(shared)} shared left out"
    )
    return split(texts, list(PACKAGES), source, seed=seed, limit=limit)


def _paragraphs(package: str) -> Iterator[str]:
    """First paragraphs of the docstrings in a package's files, masked; in a fixed order."""
    for file in source_files(package):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the files' own, such as invalid escapes
            try:
                content = file.read_bytes()
                if len(content) > LARGEST or content.count(b'"""') < 2:
                    continue
                tree = ast.parse(content)
            except (SyntaxError, ValueError, OSError, RecursionError):
                continue
        for node in _documented(tree.body):
            text = (ast.get_docstring(node) or "").strip().split("\n\n")[0]
            text = GIVEAWAYS.sub(MASK, " ".join(text.split()))
            if WORDS[0] <= len(text.split()) <= WORDS[1]:
                yield text


def _documented(
    body: list[ast.stmt],
) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Functions, classes and methods; what is inside a function is nobody's interface."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node
        if isinstance(node, ast.ClassDef):
            yield from _documented(node.body)


def source_files(package: str) -> list[Path]:
    """Source files of a package ("" for the standard library) without its tests, in a fixed random order."""
    if package:
        spec = importlib.util.find_spec(package)  # finds a top-level package without importing it
        root = Path(str(spec.origin)).parent if spec else Path()
    else:
        root = Path(sysconfig.get_paths()["stdlib"])
    skip = {"site-packages", "dist-packages", "test", "tests", "testing", "idlelib", "lib2to3", "_vendor"}
    files = [f for f in root.rglob("*.py") if not skip & set(f.relative_to(root).parts)]
    names = sorted(files, key=lambda f: f.relative_to(root).as_posix())
    random.Random(0).shuffle(names)
    return names
