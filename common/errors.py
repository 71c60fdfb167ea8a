"""How a program ends early: a mistake of the user, one clear line and never a traceback, or a signal."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can put right. The command line prints it in one or two lines and exits with 2.

    Args:
        what: what was wrong, and where (the file, the flag, the row).
        hint: what to do about it; may be empty.
    """

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what, hint)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}\n{self.hint}" if self.hint else self.what


class Interrupted(Exception):
    """Ctrl-C or SIGTERM arrived; what was being done is finished as far as it can be, and saved.

    Attributes:
        code: the exit code that the shell expects, 130 or 143.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


def nearest(value: str, choices: Iterable[str]) -> str:
    """A hint that names the choice nearest to a misspelt value, or all choices where none is near."""
    names = list(choices)
    # A longer value is no slip of the keyboard, and comparing takes time with the square of the length.
    close = difflib.get_close_matches(value[:100], names, n=1, cutoff=0.6)
    return f"Did you mean {close[0]}?" if close else f"Choose one of: {', '.join(names)}."
