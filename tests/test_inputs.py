"""What a model can be asked with: every kind reads what its users write, and names what is wrong with the rest."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.kinds.base import MAX_BYTES
from common.kinds.image import ImageInput
from common.kinds.messages import Conversation, Message, MessagesInput
from common.kinds.observation import ObservationInput
from common.kinds.prompt import Prompt, PromptInput
from common.kinds.row import RowInput
from common.kinds.sampling import MOST_LETTERS, Sampling
from common.kinds.seed import SeedInput
from common.kinds.text import TextInput
from tests.helpers import same


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


ROW = RowInput(("width", "height"))
SEED = SeedInput(4, ("cat", "dog"))
SEEN = ObservationInput((2, 2))
PROMPT = PromptInput("To be")
TALK = MessagesInput("What is 2 + 2?")


@pytest.mark.parametrize("inputs", [TextInput(), ROW, SEED, SEEN, PROMPT, TALK])
def test_its_json_makes_the_same_input_again(inputs: Any) -> None:
    fields = inputs.to_json()
    assert fields["kind"] == inputs.kind
    assert type(inputs).from_json({k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}) == inputs
    with pytest.raises(UserError, match=f"description of its {inputs.kind} input is not valid"):
        type(inputs).from_json({**fields, "unknown": 1})


def test_a_text_is_taken_as_it_is(tmp_path: Path) -> None:
    text = "Füße 👣\n\n  שלום  "
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    assert TextInput().decode(tmp_path / "a.txt") == TextInput().decode(text.encode()) == text
    assert TextInput().decode(b"\xef\xbb\xbfbom") == "bom"
    assert TextInput().decode(b"") == ""


def test_a_prompt_is_a_text_or_an_object_with_options() -> None:
    assert PROMPT.decode(b"To be\n") == Prompt("To be\n", Sampling())
    assert PROMPT.decode(b"") == Prompt("", Sampling())
    given = b'{"prompt": "To be", "max_tokens": 7, "temperature": 0, "stop": "or"}'
    expected = Prompt("To be", Sampling(max_tokens=7, temperature=0.0, stop=("or",)))
    assert PROMPT.decode(given) == expected
    for text in ('{"a": 1}', '{"prompt"', '["prompt"]', "{}"):  # no object with a prompt: a text about one
        assert PROMPT.decode(text.encode()).text == text
    asked = '{"prompt": "meant as a text"}'  # in JSON a text is a text, whatever is in it
    assert PROMPT.decode(PROMPT.value(asked)).text == asked
    assert PROMPT.decode(PROMPT.value({"prompt": "To be", "seed": 3})).sampling.seed == 3


def said(*messages: Any, **options: Any) -> bytes:
    return json.dumps({"messages": messages, **options}).encode()


USER = {"role": "user", "content": "Hello"}


def test_a_conversation_is_a_text_or_messages_with_options() -> None:
    alone = Conversation((Message("user", "Hello"),), Sampling())
    assert TALK.decode(b"Hello\n") == TALK.decode(said(USER)) == TALK.decode(TALK.value("Hello")) == alone
    system = {"role": "system", "content": "Be brief."}
    parts = {"role": "assistant", "content": [{"type": "text", "text": "Good "}, {"type": "text", "text": "day"}]}
    found = TALK.decode(said(system, USER, {**parts, "refusal": None}, USER, temperature=0, stop=["."]))
    assert [message.role for message in found.messages] == ["system", "user", "assistant", "user"]
    assert found.messages[2].content == "Good day"
    assert found.sampling == Sampling(temperature=0.0, stop=(".",))
    for text in ('{"messages"', '["messages"]', '{"a": "messages"}'):  # no object with messages: a text about them
        assert TALK.decode(text.encode()).messages == (Message("user", text),)
    asked = said(USER).decode()  # in JSON a text is a text, whatever is in it
    assert TALK.decode(TALK.value(asked)).messages[0].content == asked


@pytest.mark.parametrize("row", [b'{"height": 2, "width": 1.5}', b"[1.5, 2]", b"1.5,2\n", b' "1.5", 2 '])
def test_a_row_is_an_object_a_list_or_a_line(row: bytes) -> None:
    assert ROW.decode(row).tolist() == [1.5, 2.0]


def test_a_seed_gives_the_same_latent_however_it_is_written() -> None:
    short, long = SEED.decode(b"7"), SEED.decode(b'{"seed": 7, "class": "dog"}')
    assert torch.equal(short.latent, long.latent)
    assert (short.label, long.label, short.seed) == (None, 1, 7)
    assert not torch.equal(short.latent, SEED.decode(b"8").latent)
    given = SEED.decode(b'{"latent": [1, 2, 3, 4]}')
    assert (given.latent.tolist(), given.seed) == ([1.0, 2.0, 3.0, 4.0], None)


def test_an_observation_is_json_or_numpy() -> None:
    expected = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert torch.equal(SEEN.decode(b"[[1, 2], [3, 4]]"), expected)
    assert torch.equal(SEEN.decode(npy(expected.numpy().astype("float64"))), expected)


@pytest.mark.parametrize(
    ("inputs", "content", "words"),
    [
        (TextInput(), b"caf\xe9", "The text is not UTF-8 text (byte 3)."),
        (TextInput(), b"x" * (MAX_BYTES + 1), "The text is larger than 16 MB."),
        (ROW, b"1", "The row has the shape [1], not [2]."),
        (ROW, b"", "The row has the shape [0], not [2]."),
        (ROW, b"1,x", "The row does not hold numbers of the shape [2]."),
        (ROW, b"[1, NaN]", "The row holds nan; only finite numbers go."),
        (ROW, b'{"width": 1}', "The row lacks 1 of 2 columns: 'height', …"),
        (ROW, b'{"widht": 1, "height": 2}', "The row has an unknown column 'widht'."),
        (ROW, b'{"width": 1', "The row is not valid JSON"),
        (SEED, b"-1", "The seed is no seed: -1."),
        (SEED, b"true", "The seed is no seed: True."),
        (SEED, b"1.5", "The seed is no seed: 1.5."),
        (SEED, b"{}", "The seed is no seed: None."),
        (SEED, b'{"sead": 1}', "The seed has an unknown key 'sead'."),
        (SEED, b'{"seed": 1, "class": "cow"}', "The seed asks for the unknown class 'cow'."),
        (SeedInput(4), b'{"seed": 1, "class": "cat"}', "this model was trained without classes"),
        (SEED, b'{"latent": [1]}', "The seed has the shape [1], not [4]."),
        (PROMPT, b'{"prompt": 7}', 'The prompt: "prompt" is 7, not a text.'),
        (PROMPT, b'{"prompt": "a", "temprature": 1}', "unknown option 'temprature'.\nDid you mean temperature?"),
        (PROMPT, b'{"prompt": "a", "temperature": NaN}', '"temperature" is nan; it must be a number from 0 to 10.'),
        (PROMPT, b'{"prompt": "a", "temperature": -1}', '"temperature" is -1; it must be a number from 0 to 10.'),
        (PROMPT, b'{"prompt": "a", "max_tokens": 0}', '"max_tokens" is 0; it must be a whole number from 1 to 2048.'),
        (PROMPT, b'{"prompt": "a", "max_tokens": 1.5}', '"max_tokens" is 1.5; it must be a whole number'),
        (PROMPT, b'{"prompt": "a", "seed": true}', '"seed" is True; it must be a whole number'),
        (PROMPT, b'{"prompt": "a", "stop": ""}', "\"stop\" is ''; it must be a text or up to 4 of them"),
        (PROMPT, b'{"prompt": "a", "stop": ["a", 1]}', "\"stop\" is ['a', 1]; it must be a text or up to 4 of them"),
        (PROMPT, b'{"prompt": "\\ud800"}', "holds half of a surrogate pair, which is no character."),
        (PROMPT, b'{"prompt": "a", "stop": "\\udc00"}', "\"stop\" is '\\udc00'; it must be a text"),
        (PromptInput("ab", "ab"), b"abc", "The prompt has characters that this model does not know: 'c'."),
        (PROMPT, b"x" * (MOST_LETTERS + 1), "The prompt has 262,145 letters; 262,144 are the most."),
        (TALK, b"  \n", "The conversation ends with a message without a text."),
        (TALK, said(), '"messages" is []; it must be a list of at least one message.'),
        (TALK, b'{"messages": "Hello"}', "\"messages\" is 'Hello'; it must be a list"),
        (TALK, said("Hello"), 'message 1 is \'Hello\', not an object with "role" and "content".'),
        (TALK, said(USER, {"role": "assistent", "content": ""}), "message 2 has the role 'assistent'.\nDid you mean"),
        (TALK, said({"content": "Hello"}), "message 1 has the role None."),
        (TALK, said({"role": "user"}), 'message 1: "content" is None, not a text.'),
        (TALK, said({"role": "user", "content": [{"type": "image_url"}]}), "this model reads only texts."),
        (TALK, said({"role": "user", "content": "a\ud800"}), "message 1 holds half of a surrogate pair"),
        (TALK, said(USER, {"role": "assistant", "content": "Yes"}), "ends with a message of the assistant."),
        (TALK, said(*[USER] * 513), "The conversation has 513 messages; 512 are the most."),
        (TALK, said(USER, temprature=1), "unknown option 'temprature'.\nDid you mean temperature?"),
        (TALK, b"x" * (MOST_LETTERS + 1), "The conversation has 262,145 letters; 262,144 are the most."),
        (MessagesInput("ab", "ab"), said({"role": "user", "content": "abc"}), "message 1 has characters that this"),
        (SEEN, b"[1, 2]", "The observation has the shape [2], not [2, 2]."),
        (SEEN, b"[[1, 2], [3]]", "The observation does not hold numbers of the shape [2, 2]."),
        (SEEN, b"[[1, 2], [3, 1e999]]", "The observation holds inf"),
        (SEEN, npy(np.zeros((2, 2)))[:-5], "The observation is a damaged .npy file (ValueError)."),
        (SEEN, npy(np.array([["a", "b"]])), "The observation holds <U1, not numbers."),
        (SEEN, npy(np.array([[{}]], dtype=object)), "The observation is a damaged .npy file (ValueError)."),
        (SEEN, b"[" * 100_000, "The observation is not valid JSON"),
    ],
)
def test_what_is_wrong_is_named(inputs: Any, content: bytes, words: str) -> None:
    with pytest.raises(UserError) as caught:
        inputs.decode(content)
    assert words in str(caught.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(UserError, match=r"Can't read nowhere\.txt: No such file"):
        TextInput().decode(Path("nowhere.txt"))


@pytest.mark.parametrize(
    "inputs",
    [
        TextInput(),
        RowInput(("a", "b")),
        RowInput(("a", "b"), (1.5, 2.0)),
        SeedInput(4),
        ObservationInput((2, 3)),
        ImageInput(8, 1, (0.5,), (0.5,)),
        ImageInput(5, 3, (0.5,) * 3, (0.5,) * 3),
        PROMPT,
        TALK,
    ],
)
def test_every_input_reads_its_own_sample(inputs: Any) -> None:
    first, second = inputs.decode(inputs.sample()), inputs.decode(inputs.sample())
    assert same(first, second)
