"""A dry run: AWS as somebody who writes every request down, sends nothing and answers nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.command.exits import say

_CHANGES = ("Create", "Update", "Delete", "Stop", "Register", "Put", "Invoke")  # a call of these is worth showing


@dataclass(frozen=True)
class _Answer:
    status_code: int = 200


def session(region: str) -> Any:
    """A boto3 session that prints each request that would change something; no credentials, no network."""
    import boto3

    made = boto3.Session(aws_access_key_id="dry-run", aws_secret_access_key="dry-run", region_name=region)
    made.events.register("provide-client-params", _show)
    made.events.register("before-call", lambda **_: (_Answer(), {}))  # an answer here keeps botocore from sending
    return made


def show(operation: str, request: dict[str, Any]) -> None:
    """Prints a request as indented JSON on stdout, under the name of its operation."""
    sys.stdout.write(json.dumps({operation: request}, indent=2, default=str) + "\n")
    sys.stdout.flush()


def say_upload(files: Sequence[Path], uri: str) -> None:
    """Says on stderr what would be uploaded."""
    size = sum(file.stat().st_size for file in files)
    say(f"would upload {len(files)} files, {size / 1e6:.1f} MB, to {uri}")


def _show(params: dict[str, Any], model: Any, **_: Any) -> None:
    if model.name.startswith(_CHANGES):
        show(model.name, params)
