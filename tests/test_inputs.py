"""What a model can be asked with: every kind reads what its users write, and names what is wrong with the rest."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.kinds.base import MAX_BYTES
from common.kinds.image import ImageInput
from common.kinds.observation import ObservationInput
from common.kinds.prompt import Prompt, PromptInput, Sampling
from common.kinds.row import RowInput
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


@pytest.mark.parametrize("inputs", [TextInput(), ROW, SEED, SEEN, PROMPT])
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
        (PromptInput("ab", "ab"), b"abc", "The prompt has characters that this model does not know: 'c'."),
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
    ],
)
def test_every_input_reads_its_own_sample(inputs: Any) -> None:
    first, second = inputs.decode(inputs.sample()), inputs.decode(inputs.sample())
    assert same(first, second)
