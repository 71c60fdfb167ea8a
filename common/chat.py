"""A talk with a model in the terminal: what it answers appears as it is written.

python -m common.chat RUN                                  Ctrl-C stops an answer, Ctrl-D ends the talk
python -m common.chat RUN --system "Answer in one word."   what the model is told before the first message
python -m common.chat RUN --temperature 0 < questions.txt  one message on each line, of one talk

A model that only continues texts is given all that was written so far, and goes on from there.
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from common import artifact, example, trust
from common.command import exits as command
from common.errors import UserError, nearest
from common.kinds.answer import Predictor
from common.kinds.base import decoded
from common.kinds.sampling import SampledInput
from common.kinds.writing import News, stream

PRECISIONS = ("fp32", "int8", "int4")
FAILED = 1  # exit code: of what came through a pipe, some was not answered
SIGN = "> "  # before what the user types
HELP = "Ctrl-C stops an answer, Ctrl-D ends the talk."


def main(
    run: Annotated[str, typer.Argument(metavar="RUN", help="folder of a run, or of its model")],
    system: Annotated[str, typer.Option(help="what the model is told before the first message")] = "",
    max_tokens: Annotated[int | None, typer.Option(help="after which an answer ends")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0 takes the likeliest token always, more is wilder")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(help="only the likeliest tokens with this probability together")
    ] = None,
    repetition_penalty: Annotated[
        float | None, typer.Option(help="above 1, what was there before is less likely")
    ] = None,
    stop: Annotated[list[str] | None, typer.Option(help="a text before which an answer ends; may be repeated")] = None,
    seed: Annotated[int | None, typer.Option(help="the same gives the same answers; another each time if none")] = None,
    precision: Annotated[str, typer.Option(help="fp32, or weights in int8 or int4, which is faster")] = "fp32",
    trust_export: trust.Flag = False,
) -> int:
    """Talks with a trained model."""
    given = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "repetition_penalty": repetition_penalty,
        "stop": stop or None,
        "seed": seed,
    }
    options = {name: value for name, value in given.items() if value is not None}
    if precision not in PRECISIONS:
        raise UserError(f"--precision {precision}: no such number format.", nearest(precision, PRECISIONS))
    trust.allow(trust_export)
    saved = artifact.load(Path(run))
    predictor = example.predictor_of(saved)
    from common.machine import device, packed  # here: a mistake in the arguments is said without waiting for torch

    device.set_threads()
    if precision != "fp32":
        packed.pack(predictor.model, precision)
    talk = Talk(predictor, system, options)
    if sys.stdin.isatty():
        command.say(f"{saved.example}. {HELP}")
        return _by_hand(talk)
    return _from_pipe(talk)


class Talk:
    """What was said so far, and the model that answers.

    Args:
        system: what it is told first; "" for nothing.
        options: fields of Sampling; without a "seed" every answer has another one.

    Raises:
        UserError: the model writes no texts or takes no instructions, or an option is out of bounds.
    """

    def __init__(self, predictor: Predictor, system: str = "", options: dict[str, Any] | None = None) -> None:
        if predictor.writer is None or not isinstance(predictor.input, SampledInput):
            raise UserError("This model writes no texts.", "Ask it with: python -m common.predict")
        self.turns: list[tuple[str, str]] = [("system", system)] if system else []
        self._kind, self._options = predictor.input, options or {}
        self._item([*self.turns, ("user", predictor.input.example)])  # a wrong option is said at once
        self._writer = predictor.writer()

    def answer(self, message: str) -> Iterator[News]:
        """The answer to a message, as it is written; what has come until the reader stops is the answer.

        Raises:
            UserError: the message can't be answered; it is then as if it had not been said.
        """
        turns = [*self.turns, ("user", message)]
        item = self._item(turns)
        said = ""
        for news in stream(self._writer, item):
            said += news.text
            self.turns = [*turns, ("assistant", said)]
            yield news

    def _item(self, turns: list[tuple[str, str]]) -> Any:
        options = {"seed": secrets.randbits(31), **self._options}
        return decoded(self._kind, self._kind.talk(turns, options), "The message")


def _by_hand(talk: Talk) -> int:
    with contextlib.suppress(ImportError):  # which Windows lacks
        import readline  # noqa: F401, gives `input` its arrow keys and its memory

    while True:
        try:
            message = input(SIGN)
        except KeyboardInterrupt:
            command.say(f"\n{HELP}")
            continue
        except EOFError:
            sys.stdout.write("\n")
            return 0
        if not message.strip():
            continue
        try:
            with interrupts() as wanted:
                _show(talk.answer(message), harmless, wanted)
        except UserError as mistake:
            command.say(f"error: {mistake}")
        sys.stdout.write("\n")


def _from_pipe(talk: Talk) -> int:
    code = 0
    for number, line in enumerate(sys.stdin.buffer, 1):
        message = line.rstrip(b"\r\n")
        if not message.strip():
            continue
        try:
            _show(talk.answer(_text(message)))
        except UserError as mistake:
            command.say(f"error: line {number}: {mistake}")
            code = FAILED
    return code


def _text(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"The message is not UTF-8 text (byte {error.start}).") from error


def _show(answer: Iterator[News], shown: Callable[[str], str] = str, stopped: Callable[[], bool] = bool) -> None:
    """Writes an answer as it comes, until it ends or is stopped."""
    for news in answer:
        sys.stdout.write(shown(news.text))
        sys.stdout.flush()
        if stopped():
            break
    sys.stdout.write("\n")
    sys.stdout.flush()


@contextlib.contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed: the first is a wish, so that no token is broken off, and a second one ends all."""
    pressed = False

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)


def harmless(text: str) -> str:
    """A text without the control characters by which it could take the terminal over."""
    return "".join("\ufffd" if unicodedata.category(c) == "Cc" and c not in "\n\t" else c for c in text)


if __name__ == "__main__":
    command.run(main, "python -m common.chat")
