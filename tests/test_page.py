"""The page, in a browser: what a visitor sees of every kind of model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from common.command.arguments import Options
from common.command.execute import execute
from common.data.audio.sources import load_audio
from common.example import get
from common.kinds.answer import Predictor
from common.kinds.audio import wav
from common.kinds.labels import Labels
from common.kinds.text import TextInput
from common.report.frames import png
from common.serve.models import load_models
from common.serve.settings import Settings
from tests.helpers import ROOT
from tests.page_helpers import DIGITS, draw, generator, served, table, toy
from tests.talk_helpers import talkers
from vision import scenes

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

GOLDEN = ROOT / "tests" / "golden"
EVIL = "<img src=x onerror=document.title='owned'>"
PATIENCE = 20_000  # milliseconds that the browser waits for what it is told to expect
KINDS = (
    "digits",
    "texts",
    "pictures",
    "agent",
    "table",
    "sounds",
    "writer",
    "talk",
    "translator",
    "noise",
    "boxes",
    "evil",
)
Visit = Callable[..., Any]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with a model of each kind."""
    folder = tmp_path_factory.mktemp("page")
    out, cpu = str(folder), {"device": "cpu"}
    quick, tiny = Options(out=out, quiet=True), Options(out=out, quiet=True, tiny=True)
    digits = execute(get("vision.train"), quick, {"model": "lenet", "epochs": 6, **cpu})
    texts = execute(get("nlp.classify"), tiny, {"epochs": 1, **cpu})
    agent = execute(get("rl.dqn"), tiny, cpu)
    sounds = execute(get("nlp.speech"), tiny, {"epochs": 4, **cpu})
    runs = [f"digits={digits['run']}", f"texts={texts['run']}", f"agent={agent['run']}", f"sounds={sounds['run']}"]
    runs += [f"pictures={generator(folder / 'pictures')}", f"table={table(folder / 'table')}"]
    runs += [f"writer={GOLDEN / 'nlp.gpt'}", f"translator={GOLDEN / 'nlp.translate'}"]
    runs.append(f"boxes={GOLDEN / 'vision.detect'}")
    runs += [f"noise={GOLDEN / 'generative.flow'}"]

    def predict(texts: Sequence[str]) -> list[dict[str, Any]]:
        shares = [0.9 if "good" in text else 0.2 for text in texts]
        return [{"class": EVIL, "probabilities": {EVIL: share, "other": 1 - share}} for share in shares]

    with ThreadPoolExecutor(1) as decoders:
        models = load_models(runs, decoders)
        models["evil"] = toy(
            "evil", Predictor(TextInput(), Labels([EVIL, "other"]), predict), [EVIL, "other"], decoders, example=EVIL
        )
        made = talkers(decoders)
        models |= {name: made[name] for name in ("talk", "slow")}
        with served(models) as url:
            yield url


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Visit]:
    """Opens the page of a model; afterwards no script has failed and no other host was asked for anything."""
    contexts: list[Any] = []
    trouble: list[str] = []

    def see(url: str) -> None:
        if not url.startswith((address, "data:", "blob:")):
            trouble.append(f"asked for {url}")

    def hear(kind: str, text: str, refused: bool) -> None:
        if kind == "error" and not (refused and "status of 400" in text):
            trouble.append(text)

    def open_page(model: str, width: int = 1280, dark: bool = False, refused: bool = False, **more: Any) -> Page:
        scheme: Any = "dark" if dark else "light"
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **more)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: see(request.url))
        page.on("console", lambda said: hear(said.type, said.text, refused))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.goto(f"{address}/#{model}")
        page.get_by_role("heading", level=1).wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert trouble == []


def shows(page: Page, word: str) -> None:
    """Waits until the answer in large letters is this one."""
    page.locator(".word", has_text=re.compile(f"^{re.escape(word)}$")).wait_for()


# --- images -----------------------------------------------------------------------------------------------


def test_a_drawn_digit_is_recognised_and_explained(visit: Visit) -> None:
    page = visit("digits")
    for digit in "0137":
        draw(page, DIGITS[digit])
        shows(page, digit)
        page.locator(".easel.hot").wait_for()  # where the model looked
        assert page.locator(".bar[aria-pressed=true] .name").inner_text() == digit
        page.get_by_role("button", name="Clear").click()
        assert page.locator(".easel.hot").count() == 0
    draw(page, DIGITS["7"], size=0.4, at=(0.3, 0.7))  # a small one in a corner is the same digit
    shows(page, "7")
    page.get_by_role("button", name=re.compile("^1 ")).click()  # what would speak for another class
    page.get_by_text("what speaks for “1”").wait_for()


def test_a_digit_can_be_drawn_with_the_keyboard(visit: Visit) -> None:
    page = visit("digits")
    page.locator("canvas.paper").focus()
    for key, times in (("ArrowUp", 6), (" ", 1), ("ArrowDown", 12), (" ", 1)):
        for _ in range(times):
            page.keyboard.press(key)
    shows(page, "1")
    page.keyboard.press("Backspace")
    page.get_by_text("The answer appears here.").wait_for()


def test_a_file_is_seen_and_one_that_is_no_image_is_named_as_text(visit: Visit, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("L", (40, 30), 200).save(tmp_path / "grey.png")
    (tmp_path / f"{EVIL}.png").write_bytes(b"no image")
    page = visit("digits")
    page.locator("#file").set_input_files(tmp_path / "grey.png")
    page.get_by_text("What the model sees").wait_for()
    page.locator("#file").set_input_files(tmp_path / f"{EVIL}.png")
    page.get_by_role("alert").filter(has_text=f"{EVIL}.png is not an image").wait_for()
    assert page.title() != "owned"


def test_boxes_appear_on_a_photo_and_the_slider_says_how_sure_they_are(visit: Visit, tmp_path: Path) -> None:
    scene = scenes.shapes(0).splits["test"][0].image
    wide = torch.nn.functional.pad(scene, (0, 16), value=90)
    (tmp_path / "scene.png").write_bytes(png(wide))
    page = visit("boxes")
    page.locator("#file").set_input_files(tmp_path / "scene.png")
    page.locator("g.box").first.wait_for()
    photo = page.locator("svg:has(g.box)")
    assert photo.get_attribute("viewBox") == "0 0 80 64"  # in its own pixels
    assert photo.locator("image").get_attribute("href").startswith("blob:")

    def count(threshold: float) -> int:
        page.locator("#threshold").fill(str(threshold))
        boxes, lines = page.locator("g.box").count(), page.get_by_label("What was found").locator("li").count()
        assert boxes == lines
        return boxes

    many, few = count(0.1), count(0.4)
    assert many > few > 0
    assert re.fullmatch(r"\w+, \d+\.\d % sure", page.locator("g.box title").first.text_content() or "")
    thin = page.locator("g.box .line[stroke-width='4']")
    assert thin.count() == 0
    page.get_by_label("What was found").locator("li").first.hover()
    assert thin.count() == 1  # it lights up
    assert count(0.99) == 0
    page.get_by_text("less sure").first.wait_for()
    page.get_by_role("button", name="Clear").click()
    assert page.locator("g.box").count() == 0


# --- sounds -----------------------------------------------------------------------------------------------


def drawn(page: Page) -> Any:
    """How many pixels of the waveform and of the spectrogram are not empty."""
    pixels = "c.getContext('2d').getImageData(0, 0, c.width, c.height).data"
    count = f"all => all.map(c => {pixels}.filter((value, i) => i % 4 == 3 && value).length)"
    return page.locator(".bench canvas").evaluate_all(count)


def test_a_recording_is_drawn_answered_and_explained(visit: Visit, tmp_path: Path) -> None:
    data = load_audio("synthetic")
    page = visit("sounds")
    assert drawn(page) == [0, 0]
    for index in (0, 3):
        (tmp_path / "a.wav").write_bytes(wav(data.unheard[index], data.audio.rate))
        page.locator("#file").set_input_files(tmp_path / "a.wav")
        shows(page, data.classes[int(data.unheard.targets[index])])
        page.get_by_text("In colour: the parts").wait_for()
    assert min(drawn(page)) > 1000
    page.locator(".bar").last.click()
    page.locator(".bar[aria-pressed=true]").last.wait_for()
    page.get_by_role("button", name="Play").click()


def test_what_is_spoken_into_the_microphone_is_answered(visit: Visit) -> None:
    page = visit("sounds", permissions=["microphone"])  # Chromium's stand-in beeps once a second
    page.get_by_role("button", name="Speak").click()
    page.get_by_text("Listening").wait_for()
    page.wait_for_timeout(1_500)
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("In colour: the parts").wait_for()
    assert min(drawn(page)) > 100


# --- texts and rows ---------------------------------------------------------------------------------------


def test_a_typed_text_gets_bars_and_marked_words(visit: Visit) -> None:
    page = visit("texts")
    page.get_by_label("Your text").fill("an altogether wonderful film, and then a dreadful end")
    same = "() => document.querySelector('.marked').textContent === document.querySelector('#text').value"
    page.wait_for_function(same)
    assert page.locator(".marked span").count() > 0
    assert page.locator(".bar").count() >= 2
    page.locator(".bar").last.click()
    page.locator(".bar[aria-pressed=true]").last.wait_for()
    page.get_by_label("Your text").fill("")  # an empty text is answered too
    page.locator(".why").wait_for(state="hidden")
    assert page.get_by_role("alert").count() == 0


def test_a_prompt_goes_on_and_each_piece_says_how_likely_it_was(visit: Visit) -> None:
    page = visit("writer")
    page.get_by_text("200 tokens").wait_for()
    begin = page.get_by_label("How it begins").input_value()
    assert page.locator(".written .prompt").inner_text() == begin
    assert len(page.locator(".written").inner_text()) == len(begin) + 200
    assert re.fullmatch(r"[\d.> ]+ %", page.locator(".written > span").last.get_attribute("title") or "")
    page.get_by_label("Tokens at most").fill("7")
    page.get_by_role("button", name="Another").click()
    page.get_by_text("7 tokens", exact=True).wait_for()
    whole = page.locator(".written").inner_text()
    page.get_by_role("button", name="Keep it").click()
    page.wait_for_function("text => document.querySelector('#prompt').value === text", arg=whole)


def test_a_text_appears_as_it_is_written_and_can_be_stopped(visit: Visit) -> None:
    page = visit("writer")
    page.get_by_text("200 tokens").wait_for()
    page.get_by_label("Tokens at most").fill("2048")
    page.get_by_role("button", name="Continue").click()
    page.wait_for_function("() => document.querySelectorAll('.written > span').length > 5")
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped").wait_for()
    assert page.locator(".written > span").count() < 2048
    page.get_by_role("button", name="Keep it and go on").wait_for()
    assert page.get_by_role("button", name="Keep it and go on").is_enabled()


def test_a_conversation_is_answered_and_each_piece_says_how_likely_it_was(visit: Visit) -> None:
    page = visit("talk")
    page.get_by_label("Tokens at most").fill("12")
    page.get_by_role("button", name="How are you?").click()
    page.get_by_text(re.compile(r"\d+ tokens?, \d+ a second")).wait_for()
    assert page.locator(".turn").evaluate_all("all => all.map(turn => turn.classList[1])") == ["user", "assistant"]
    page.get_by_label("Your message").fill(EVIL)
    page.keyboard.press("Enter")
    page.locator(".turn.assistant:not(.growing)").nth(1).wait_for()
    assert page.locator(".turn.user .text").last.inner_text() == EVIL
    assert page.locator("#stage img").count() == 0
    plain = page.locator(".turn.assistant .against").first
    assert plain.evaluate("e => getComputedStyle(e).backgroundColor") == "rgba(0, 0, 0, 0)"
    page.get_by_label("How likely").check()
    assert plain.evaluate("e => getComputedStyle(e).backgroundColor") != "rgba(0, 0, 0, 0)"
    page.locator(".turn.assistant .text").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    said = page.locator(".dock [role=status]").inner_text()
    assert re.fullmatch(r"“.+” [\d.> ]+ %", said)
    assert page.locator(".turn.assistant .pointed").inner_text() in (said[1:2], "\n")
    page.get_by_role("button", name="New conversation").click()
    assert page.locator(".turn").count() == 0
    assert page.evaluate("document.activeElement.id") == "message"


def test_an_answer_is_stopped_repeated_and_its_question_changed(visit: Visit) -> None:
    page = visit("slow")
    page.get_by_label("Tokens at most").fill("2048")
    page.get_by_label("Temperature").fill("0")  # then it never ends by itself
    page.get_by_label("Your message").fill("One")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelectorAll('.turn.assistant .text span').length > 5")
    assert page.get_by_role("button", name="Send").count() == 0
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("stopped").wait_for()
    first = page.locator(".turn.assistant .text").inner_text()
    page.get_by_role("button", name="Again").click()
    page.wait_for_function(
        "n => document.querySelector('.turn.assistant .text').textContent.length > n + 3", arg=len(first)
    )
    page.get_by_role("button", name="Stop").click()
    assert page.locator(".turn").count() == 2
    assert page.locator(".turn.assistant .text").inner_text().startswith(first)  # the likeliest, as before
    page.get_by_role("button", name="Edit").click()
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.textContent") == "Edit"
    page.keyboard.press("Enter")
    page.keyboard.type(" more")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Stop").click()
    assert page.locator(".turn.user .text").all_inner_texts() == ["One more"]
    assert page.locator(".turn").count() == 2


def test_a_message_that_is_refused_is_in_the_field_again(visit: Visit) -> None:
    page = visit("talk", refused=True)
    page.get_by_label("Your message").fill("x" * 40_000)
    page.get_by_role("button", name="Send").click()
    page.get_by_role("alert").filter(has_text="32,768 are the most").wait_for()
    assert len(page.get_by_label("Your message").input_value()) == 40_000
    assert page.locator(".turn").count() == 0


def test_a_translation_shows_where_the_model_looked_and_what_else_it_might_be(visit: Visit) -> None:
    page = visit("translator")
    page.get_by_label("Your text").fill("abcdef")
    page.locator(".translated", has_text=re.compile("^e f c d a b $")).wait_for()
    said, asked = page.locator(".translated .part"), page.locator(".looked .part")
    said.nth(0).hover()
    page.locator(".looked .part.for", has_text="f").wait_for()  # the last letter is said first
    assert "for" not in (asked.nth(0).get_attribute("class") or "").split()
    asked.nth(0).hover()
    page.locator(".translated .part.for", has_text="b").wait_for()
    assert page.locator(".alternatives li").count() >= 2


def test_html_in_names_and_texts_is_text(visit: Visit) -> None:
    page = visit("evil")
    page.get_by_label("Your text").fill(f"good <script>document.title='owned'</script> {EVIL}")
    page.locator(".marked", has_text="document.title").wait_for()  # until then it is the text that the page begins with
    shows(page, EVIL)
    assert page.locator("h1").inner_text() == EVIL
    assert "<script>" in page.locator(".marked").inner_text()
    assert page.locator("#stage img, #stage script").count() == 0
    assert "owned" not in page.title().replace(EVIL, "")


def test_a_row_is_asked_for_column_by_column(visit: Visit) -> None:
    page = visit("table")
    page.locator(".word:not(:empty)").wait_for()
    before = page.locator(".value").first.inner_text()
    page.get_by_label("width", exact=True).fill("-4000")
    page.wait_for_function("value => document.querySelector('.value').textContent !== value", arg=before)
    page.get_by_role("button", name="Start values again").click()
    page.wait_for_function("value => document.querySelector('.value').textContent === value", arg=before)


# --- pictures and games -----------------------------------------------------------------------------------


def test_the_slider_walks_the_latent_space(visit: Visit) -> None:
    page = visit("pictures")
    page.locator(".strip img").last.wait_for()
    pictures = page.locator(".strip img").evaluate_all("all => all.map(image => image.src)")
    assert len(set(pictures)) == 9
    page.wait_for_function("src => document.querySelector('.made').src === src", arg=pictures[0])
    page.get_by_label("On the way").focus()
    page.keyboard.press("End")
    page.wait_for_function("src => document.querySelector('.made').src === src", arg=pictures[-1])
    page.get_by_label("From seed").fill("1234")
    page.wait_for_function("src => document.querySelector('.strip img').src !== src", arg=pictures[0])


def test_a_picture_grows_out_of_noise_in_the_steps_that_the_visitor_wants(visit: Visit) -> None:
    page = visit("noise", reduced_motion="reduce")
    page.get_by_text("4 steps from noise to picture.").wait_for()
    first = page.locator(".made").get_attribute("src")
    assert page.locator(".strip img").count() == 4
    page.get_by_label("Steps").focus()
    page.keyboard.press("ArrowRight")
    page.get_by_text("5 steps from noise to picture.").wait_for()
    assert page.locator(".strip img").count() == 5
    page.get_by_label("Guidance").focus()
    page.keyboard.press("End")
    page.wait_for_function("src => document.querySelector('.made').src !== src", arg=first)
    page.get_by_label("Class").select_option("pattern 3")
    page.wait_for_function("() => document.querySelector('.made').alt.startsWith('pattern 3, seed 7')")
    page.locator(".strip button").first.click()
    page.wait_for_function("() => document.querySelector('.made').src === document.querySelector('.strip img').src")


def test_the_agent_plays_and_the_visitor_takes_a_step(visit: Visit) -> None:
    page = visit("agent", reduced_motion="reduce")  # then nothing moves before it is told to
    page.get_by_text("reward so far, step 0").wait_for()
    start = page.locator(".scene").get_attribute("src")
    page.get_by_role("button", name="Step", exact=True).click()
    page.get_by_text("reward so far, step 1").wait_for()
    assert page.locator(".scene").get_attribute("src") != start
    page.keyboard.press("1")  # the visitor's own action
    page.get_by_text("reward so far, step 2").wait_for()
    page.get_by_role("button", name="Begin again").click()
    page.get_by_text("reward so far, step 0").wait_for()
    page.get_by_role("button", name="Play").click()
    page.get_by_role("button", name="Next episode").wait_for()
    page.get_by_text("The episode is over").wait_for()


# --- the frame --------------------------------------------------------------------------------------------


def test_the_report_opens_beside_the_model(visit: Visit) -> None:
    page = visit("digits")
    page.get_by_text("How it was trained").click()
    page.frame_locator("iframe").get_by_role("heading").first.wait_for()


@pytest.mark.parametrize("model", KINDS)
def test_a_phone_never_scrolls_sideways_and_dark_is_dark(visit: Visit, model: str) -> None:
    page = visit(model, width=360, dark=True)
    page.locator(".bar, .strip img, .written span, .suggestion, .easel").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    red, green, blue = re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3]
    assert max(int(red), int(green), int(blue)) < 60
    unnamed = "all => all.filter(e => !(e.labels?.length || e.ariaLabel || e.textContent.trim() || e.title)).length"
    assert page.locator("input, select, textarea, #stage button").evaluate_all(unnamed) == 0


def test_models_are_chosen_with_the_keyboard(visit: Visit) -> None:
    page = visit("digits")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the model"
    for _ in range(2):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_label("Your text").wait_for()
    assert page.locator("nav [aria-current=page]").inner_text() == "texts"


def test_a_token_is_asked_for_until_it_is_right(browser: Browser) -> None:
    def predict(texts: Sequence[str]) -> list[dict[str, Any]]:
        return [{"class": "a", "probabilities": {"a": 1.0}} for _ in texts]

    with ThreadPoolExecutor(1) as decoders, browser.new_context() as context:
        models = {"toy": toy("toy", Predictor(TextInput(), Labels(["a"]), predict), ["a"], decoders)}
        with served(models, Settings(token="secret")) as url:
            page = context.new_page()
            page.goto(url)
            page.locator("#token").fill("wrong")
            page.keyboard.press("Enter")
            page.get_by_text("does not take that token").wait_for()
            page.locator("#token").fill("secret")
            page.keyboard.press("Enter")
            shows(page, "a")
