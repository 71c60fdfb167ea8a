"""python -m common.chat: a talk through a pipe, and by hand in a terminal."""

from __future__ import annotations

import contextlib
import io
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import time
import warnings
from typing import Any

import pytest

from common import artifact, example
from common.chat import Talk, harmless
from common.errors import UserError
from common.kinds.prompt import PromptInput
from tests.helpers import ROOT, environment
from tests.talk_helpers import talker

GOLDEN = ROOT / "tests" / "golden"
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 24}


def said(talk: Talk, message: str) -> str:
    return "".join(news.text for news in talk.answer(message))


def test_the_model_sees_all_that_was_said_before() -> None:
    predictor = talker()
    talk = Talk(predictor, "Be brief.", GREEDY)
    messages = [{"role": "system", "content": "Be brief."}]
    for message in ("Hello", "And then?", "Why?"):
        messages.append({"role": "user", "content": message})
        item = predictor.input.decode(json.dumps({"messages": messages, **GREEDY}).encode())
        (row,) = predictor.predict([item])
        assert said(talk, message) == row["text"]
        messages.append({"role": "assistant", "content": row["text"]})
    assert talk.turns == [(m["role"], m["content"]) for m in messages]


def test_a_model_that_continues_goes_on_from_all_that_was_written() -> None:
    predictor = talker(PromptInput("To be"))
    talk = Talk(predictor, "", GREEDY)
    text = ""
    for message in ("To be", " or not"):
        text += message
        (row,) = predictor.predict([predictor.input.decode(json.dumps({"prompt": text, **GREEDY}).encode())])
        assert said(talk, message) == row["text"]
        text += row["text"]


def test_what_has_come_until_the_reader_stops_is_the_answer() -> None:
    talk = Talk(talker(), "", {"temperature": 0, "max_tokens": 1000})
    with contextlib.closing(talk.answer("Hello")) as answer:  # type: ignore[type-var]
        begun = "".join(next(answer).text for _ in range(5))
    assert talk.turns[-1] == ("assistant", begun)
    assert talk._writer.step() == []  # nothing goes on
    with pytest.raises(UserError, match="without a text"):
        said(talk, " ")
    assert talk.turns[-1] == ("assistant", begun)  # as if it had not been said


def test_another_seed_for_every_answer_unless_one_is_given() -> None:
    answers = {said(Talk(talker(), "", {"max_tokens": 24}), "Hello") for _ in range(3)}
    assert len(answers) > 1
    again = {said(Talk(talker(), "", {"max_tokens": 24, "seed": 3}), "Hello") for _ in range(2)}
    assert len(again) == 1


def test_a_terminal_is_not_taken_over() -> None:
    assert harmless("a\x1b[2Jb\rc\x07\n\té😀") == "a\ufffd[2Jb\ufffdc\ufffd\n\té😀"


def chat(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], content: bytes, *arguments: object
) -> tuple[Any, str, str]:
    """`python -m common.chat ARGUMENTS < content` in this process: exit code, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["common.chat", *map(str, arguments)])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    with warnings.catch_warnings(), pytest.raises(SystemExit) as stop:
        warnings.simplefilter("ignore", RuntimeWarning)  # that the module was imported before
        runpy.run_module("common.chat", run_name="__main__")
    output = capfd.readouterr()
    return stop.value.code, output.out, output.err


def test_a_message_on_each_line_through_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = GOLDEN / "nlp.gpt"
    predictor = example.get("nlp.gpt").load(artifact.load(run))
    asked = ("--temperature", 0, "--max-tokens", 9, "--stop", "hg")
    code, out, err = chat(monkeypatch, capfd, b"abc\n\nxyz\n\xff\r\nde", run, *asked)
    text, answers = "", []
    for message in ("abc", "de"):  # the others can't be read
        text += message
        options = {"temperature": 0, "max_tokens": 9, "stop": ["hg"]}
        (row,) = predictor.predict([predictor.input.decode(json.dumps({"prompt": text, **options}).encode())])
        answers.append(row["text"])
        text += row["text"]
    assert out.splitlines() == answers
    assert code == 1
    assert "line 3: The message has characters that this model does not know: 'x' 'y' 'z'." in err
    assert "line 4: The message is not UTF-8 text (byte 0)." in err


@pytest.mark.parametrize(
    ("run", "arguments", "words"),
    [
        ("vision.train", (), "This model writes no texts."),
        ("nlp.gpt", ("--system", "Be brief."), "takes no instructions"),
        ("nlp.gpt", ("--temperature", "nan"), '"temperature" is nan'),
        ("nlp.gpt", ("--top-p", "2"), '"top_p" is 2.0; it must be a number from 0 to 1.'),
        ("nlp.gpt", ("--max-tokens", "0"), '"max_tokens" is 0'),
        ("nlp.gpt", ("--stop", ""), '"stop" is'),
        ("nowhere", (), "nowhere"),
    ],
)
def test_mistakes_are_said_before_the_first_message(
    run: str, arguments: Any, words: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, err = chat(monkeypatch, capfd, b"abc\n", GOLDEN / run, *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.splitlines()) <= 2


TERMINAL = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs the tests in the background ignores it
from common import chat
from common.command.exits import exit_with
from tests.talk_helpers import talker
exit_with(lambda: chat._by_hand(chat.Talk(talker(wait=0.05), "", {"max_tokens": 2000, "temperature": 0})))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_ctrl_c_stops_the_answer_only_and_ctrl_d_ends() -> None:
    import pty

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", TERMINAL], stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, env=environment()
    )
    os.close(theirs)
    seen = ""

    def wait_for(condition: Any) -> None:
        nonlocal seen
        deadline = time.monotonic() + 60
        while not condition(seen):
            assert select.select([ours], [], [], max(0.0, deadline - time.monotonic()))[0], seen
            seen += os.read(ours, 4096).decode(errors="replace")

    try:
        wait_for(lambda text: "> " in text)
        os.write(ours, b"Hellp\x7fo\n")  # with a slip of the finger, put right
        wait_for(lambda text: len(text.partition("\n")[2]) > 8)
        process.send_signal(signal.SIGINT)
        seen = ""
        wait_for(lambda text: "> " in text)  # the answer has ended, the talk has not
        assert len(seen) < 60
        process.send_signal(signal.SIGINT)
        wait_for(lambda text: "> " in text.partition("Ctrl-D ends the talk")[2])
        seen = ""
        os.write(ours, b"\x04")
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
