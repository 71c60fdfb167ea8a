"""What the page asks the server for: explanations, latents, games, reports; and what it may not ask for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from torch import nn

from common.data.images.sources import load_images
from common.errors import UserError
from common.kinds.action import Action
from common.kinds.answer import Predictor
from common.kinds.game import Game, Scene
from common.kinds.heat import copy_with_shared_weights, grad_cam, last_picture, occlusion
from common.kinds.image import ImageInput
from common.kinds.labels import Labels
from common.kinds.observation import ObservationInput
from common.kinds.picture import Picture
from common.kinds.seed import SeedInput
from common.kinds.text import TextInput, pieces
from common.serve import play
from common.serve.app import create_app
from common.serve.formats import Problem
from common.serve.models import load_models
from common.serve.page import FILES, describe
from common.serve.play import IDLE, MOST_GAMES, MOST_STEPS, Games
from tests.fuzz import PNG
from tests.page_helpers import generator, table, toy
from tests.serve_helpers import write_artifact

REPORT = "<h1>The report</h1>"


class Counting:
    """A game that is over after three steps."""

    actions: Sequence[str] = ("stay", "go")
    closed = 0

    def reset(self, seed: int) -> Scene:
        self.seed, self.scene = seed, Scene(b"png", None, [0.5, 1.5], None, 0.0, 0.0, 0, over=False)
        return self.scene

    def step(self, action: int | None) -> Scene:
        number = self.scene.step + 1
        taken = 1 if action is None else action
        self.scene = Scene(b"png", None, [0.5, 1.5], taken, 1.0, float(number), number, over=number >= 3)
        return self.scene

    def close(self) -> None:
        Counting.closed += 1


def broken() -> Counting:
    raise UserError("The environment is not installed.")


def texts(given: Sequence[str]) -> list[dict[str, Any]]:
    return [{"class": "a" if "good" in text else "b", "probabilities": {"a": 0.9, "b": 0.1}} for text in given]


def agent(make: Callable[[], Game]) -> Predictor:
    def rows(seen: Sequence[Any]) -> list[dict[str, Any]]:
        return [{"action": "go", "q_values": {}}] * len(seen)

    return Predictor(ObservationInput((2,)), Action(Counting.actions), rows, play=make)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("routes")
    write_artifact(folder / "run" / "model")
    (folder / "run" / "report.html").write_text(REPORT)
    runs = [f"image={folder / 'run'}", f"gan={generator(folder / 'gan', ['cat', 'dog'])}"]
    runs += [f"vit={write_artifact(folder / 'vit', 'vit')}", f"row={table(folder / 'row')}"]
    with ThreadPoolExecutor(2) as decoders:
        models = load_models(runs, decoders)
        models["text"] = toy("text", Predictor(TextInput(), Labels(["a", "b"]), texts), ["a", "b"], decoders)
        models["agent"] = toy("agent", agent(Counting), Counting.actions, decoders)
        models["broken"] = toy("broken", agent(broken), Counting.actions, decoders)
        with TestClient(create_app(models), raise_server_exceptions=False) as opened:
            yield opened


def ask(client: TestClient, path: str, body: Any = None, kind: str = "application/json") -> tuple[int, Any]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = client.post(f"/v1/models/{path}", content=content, headers={"content-type": kind})
    return answer.status_code, answer.json()


# --- the page itself --------------------------------------------------------------------------------------


def test_the_page_and_its_parts_are_served_and_nothing_else(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for name in FILES:
        part = client.get(f"/page/{name}")
        assert part.status_code == 200
        assert client.get(f"/page/{name}", headers={"if-none-match": part.headers["etag"]}).status_code == 304
        assert "http://" not in part.text.replace("http://www.w3.org", "")  # nothing is fetched from elsewhere
        assert "https://" not in part.text
    for path in ("page/../page.py", "page/%2e%2e%2fpage.py", "page/page.py", "page/"):
        assert client.get(f"/{path}").status_code == 404


def test_a_model_of_drawings_says_how_to_prepare_them(client: TestClient) -> None:
    assert "drawing" not in client.get("/v1/models/image/page").json()  # trained on photos
    assert client.get("/v1/models/row/page").json()["start"] == {"width": 1.5, "height": 0.25}
    with ThreadPoolExecutor(1) as decoders:
        digits = load_images("digits", size=8)
        drawn = Predictor(digits.image, Labels(digits.classes), lambda images: [])
        drawing = describe(toy("digits", drawn, digits.classes, decoders))["drawing"]
        assert drawing == {"grid": 8, "fill": 1.0, "widest": 0.7, "ink": digits.mean[0]}
        again = ImageInput.from_json(json.loads(json.dumps(digits.image.to_json())))
        assert again == digits.image
        with pytest.raises(UserError, match="not valid"):
            ImageInput.from_json({**digits.image.to_json(), "drawing": {"grid": "<script>", "fill": 1}})
        pictures = Predictor(SeedInput(3), Picture(), lambda draws: [{"png": ""}] * len(draws))
        assert "drawing" not in describe(toy("gan", pictures, [], decoders))


def test_only_the_report_beside_a_model_is_served(client: TestClient) -> None:
    answer = client.get("/v1/models/image/report")
    assert (answer.text, answer.headers["content-type"]) == (REPORT, "text/html; charset=utf-8")
    assert answer.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    assert client.get("/v1/models/gan/report").status_code == 404


# --- explanations -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "method"), [("image", "Grad-CAM"), ("vit", "occlusion")])
def test_an_image_is_explained_for_the_answer_or_another_class(client: TestClient, model: str, method: str) -> None:
    before = ask(client, f"{model}/predict", PNG, "image/png")
    status, why = ask(client, f"{model}/explain", PNG, "image/png")
    assert (status, why["method"], why["class"]) == (200, method, before[1]["class"])
    values = [value for row in why["heat"] for value in row]
    assert 0 <= min(values) <= max(values) <= 1
    assert ask(client, f"{model}/explain?class=class%203", PNG, "image/png")[1]["class"] == "class 3"
    assert ask(client, f"{model}/predict", PNG, "image/png") == before  # it left nothing behind


def test_the_pieces_of_an_explained_text_are_the_text(client: TestClient) -> None:
    text = "  a good\n<b>film</b>  "
    status, why = ask(client, "text/explain", text.encode(), "text/plain")
    assert (status, why["class"]) == (200, "a")
    assert "".join(piece for piece, _ in why["tokens"]) == text
    assert ask(client, "text/explain", b"", "text/plain")[1]["tokens"] == []


def test_what_cannot_be_explained_is_refused(client: TestClient) -> None:
    assert ask(client, "image/explain?class=none", PNG, "image/png")[0] == 404
    assert ask(client, "gan/explain", 7)[0] == 404
    assert ask(client, "nobody/explain", 7)[0] == 404
    assert ask(client, "image/explain", b"no image", "image/png")[0] == 400
    assert ask(client, "text/explain", ["a", "b"])[0] == 400
    assert ask(client, "text/explain", b"a " * 10_001, "text/plain")[0] == 413


class Corner(nn.Module):
    """Sees the bright upper left corner of an image, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        nn.init.ones_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = self.conv(x)[:, :, :7, :7].mean((1, 2, 3))
        return torch.stack([-seen, seen], 1)


def test_both_methods_look_where_the_evidence_is() -> None:
    image = torch.zeros(1, 1, 28, 28)
    image[:, :, 2:6, 2:6] = image[:, :, 20:24, 20:24] = 1  # the second patch says nothing
    network = copy_with_shared_weights(Corner())
    layer = last_picture(network, image)
    assert layer is not None
    heat, hidden = grad_cam(network, layer, image, 1), occlusion(network, image, 1)
    assert heat[3, 3] == 1
    assert heat[:7, :7].mean() > 0
    assert (hidden[:2, :2].max(), hidden[3:, 3:].max()) == (1, 0)
    assert grad_cam(network, layer, image, 0).max() == 0  # nothing speaks for the other class


def test_spans_that_overlap_or_leave_gaps_still_give_the_text() -> None:
    assert pieces("abcdef", [(1, 3, 0.5), (2, 4, 0.1), (4, 5, -0.25)]) == [
        ("a", None),
        ("bc", 0.5),
        ("d", None),
        ("e", -0.25),
        ("f", None),
    ]


# --- latents ----------------------------------------------------------------------------------------------


def test_a_latent_gives_the_picture_of_its_seed(client: TestClient) -> None:
    point = client.get("/v1/models/gan/latents/7").json()
    by_seed = ask(client, "gan/predict", {"seed": 7, "class": "dog"})[1]
    assert ask(client, "gan/predict", {"latent": point["latent"], "class": "dog"})[1]["png"] == by_seed["png"]


@pytest.mark.parametrize("seed", ["-1", "x", "1.5", str(2**63), "%22%22", "%7B%7D"])
def test_no_latent_without_a_seed(client: TestClient, seed: str) -> None:
    assert client.get(f"/v1/models/gan/latents/{seed}").status_code == 400
    assert client.get(f"/v1/models/image/latents/{seed}").status_code == 404


# --- games ------------------------------------------------------------------------------------------------


def test_a_game_is_played_step_by_step_and_ended(client: TestClient) -> None:
    status, begun = ask(client, "agent/games", {"seed": 3})
    assert (status, begun["actions"], begun["scenes"][0]["step"]) == (200, ["stay", "go"], 0)
    path = f"agent/games/{begun['game']}"
    (own,) = ask(client, path, {"action": 0})[1]["scenes"]
    assert (own["action"], own["total"], own["over"]) == (0, 1.0, False)
    played = ask(client, path, {"steps": MOST_STEPS})[1]["scenes"]
    assert [(scene["step"], scene["action"], scene["over"]) for scene in played] == [(2, 1, False), (3, 1, True)]
    assert ask(client, path, {"seed": 4})[1]["scenes"][0]["step"] == 0
    assert ask(client, f"text/games/{begun['game']}", {"steps": 1})[0] == 404  # it is another model's
    assert client.delete(f"/v1/models/{path}").status_code == 200
    assert ask(client, path, {"steps": 1})[0] == 404
    assert client.delete(f"/v1/models/{path}").status_code == 404


@pytest.mark.parametrize(
    "asked",
    [{"steps": 0}, {"steps": MOST_STEPS + 1}, {"steps": True}, {"action": 2}, {"action": -1}, {"action": "go"}, [1],
     {"seed": 2**31}, {"seed": 1.0}, {"steps": 1, "action": 0}, {"file": "x"}, b"{", b"[" * 1000, b"\xff"],
)  # fmt: skip
def test_a_game_refuses_what_is_no_move(client: TestClient, asked: Any) -> None:
    begun = ask(client, "agent/games", {})[1]["game"]
    assert ask(client, f"agent/games/{begun}", asked)[0] == 400
    assert client.delete(f"/v1/models/agent/games/{begun}").status_code == 200


def test_where_no_game_can_be_played(client: TestClient) -> None:
    assert ask(client, "text/games", {})[0] == 404
    assert ask(client, "agent/games", {"steps": 1})[0] == 400
    assert ask(client, "agent/games", b" " * 2000)[0] == 413
    assert ask(client, "broken/games", {}) == (501, {"error": "The environment is not installed."})


def test_games_are_limited_and_the_idle_are_forgotten() -> None:
    now = 0.0

    async def story() -> None:
        nonlocal now
        games = Games(pool, clock=lambda: now)
        with pytest.raises(Problem):
            await games.begin("agent", broken, 0)  # takes no place
        keys = [(await games.begin("agent", Counting, 0))["game"] for _ in range(MOST_GAMES)]
        with pytest.raises(Problem) as refused:
            await games.begin("agent", Counting, 0)
        assert refused.value.status == 503
        now = IDLE
        await games.go_on("agent", keys[0], {"steps": 1})  # the only one that is still played
        now = IDLE + 1
        Counting.closed = 0
        await games.begin("agent", Counting, 0)
        assert (len(games), Counting.closed) == (2, MOST_GAMES - 1)
        with pytest.raises(Problem):
            await games.go_on("agent", keys[1], {"steps": 1})

    with ThreadPoolExecutor(1) as pool:
        asyncio.run(story())


def test_a_large_picture_is_left_out() -> None:
    scene = Scene(b"x" * (play.LARGEST_PICTURE + 1), [1.0], [], None, 0.0, 0.0, 0, over=False)
    assert play.to_json(scene)["png"] == ""
