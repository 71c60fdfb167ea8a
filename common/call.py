"""What belongs to one call of an example and not to its config: it does not change what is computed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """The options that every example's command line takes; `arguments.OPTION_HELP` says what each does."""

    tiny: bool = False
    config: str | None = None
    out: str = "runs"
    resume: str | None = None
    seeds: str | None = None
    track: str | None = None
    json: bool = False
    quiet: bool = False
