// Images: draw, drop, paste or choose one; see the answer, and where the model looked.

import { ask, newest, route } from "../api.js";
import { make, problem } from "../parts.js";
import { likeTheData, Paper } from "./sketch.js";

const REST = 180; // milliseconds without a change after which the answer is explained
const FAINT = 0.15; // of the strongest evidence: what is left dark
const PLAIN = 256; // side of a drawing that is sent as it is

export function view(model, show) {
  const dark = model.input.channels === 1;
  const paperCanvas = make("canvas", { className: "paper", role: "application", tabindex: 0, "aria-label": "Paper to draw on. Arrow keys move the pen, space puts it down and lifts it, backspace takes the last stroke back." });
  const pen = make("span", { className: "pen" });
  const heatCanvas = make("canvas", { className: "heat", "aria-hidden": "true" });
  const seen = make("canvas", { className: "seen", width: model.input.size, height: model.input.size, role: "img", "aria-label": "What the model sees" });
  const invite = make("p", { className: "invite" }, model.drawing ? "Draw a digit" : "Drop an image, or draw");
  const frame = make("div", { className: `easel ${dark ? "dark" : ""}` }, paperCanvas, heatCanvas, invite, pen);
  const file = make("input", { type: "file", accept: "image/*", className: "hidden-input", id: "file", onchange: () => take(file.files[0]) });
  const looked = make("input", { type: "checkbox", checked: true, onchange: () => frame.classList.toggle("bare", !looked.checked) });
  const clear = make("button", { type: "button", onclick: wipe }, "Clear");
  const tools = make("div", { className: "tools" },
    make("span", { className: "file" }, file, make("label", { className: "button", htmlFor: "file" }, "Choose a file")), clear,
    model.explain ? make("label", { className: "check" }, looked, "Where it looked") : null);
  const shown = show(model, { pick: model.explain ? explainClass : null });
  const note = make("p", { className: "quiet note" });
  const trouble = problem();
  const seenBox = make("figure", { className: "thumb" }, seen, make("figcaption", {}, "What the model sees"));
  const element = make("div", { className: "bench" },
    make("section", { "aria-label": "Your image" }, frame, tools),
    make("section", { "aria-label": "The answer" }, make("div", { className: "said" }, shown.head, seenBox), shown.body, note, trouble.element));

  let question = null; // {body, type, frame} of what is on the paper
  let given = null; // the file, where the paper holds a picture
  let answer = null;
  let wanted = null; // a class to explain in the place of the answer
  let timer = 0;
  let changedAt = 0;
  let took = "";

  const whole = Boolean(model.input.width); // nothing is cut away from a photo
  const paper = new Paper(paperCanvas, pen, { dark, changed, whole });
  empty();

  function empty() {
    answer = question = given = wanted = null;
    shown.clear();
    note.textContent = "";
    frame.classList.remove("filled", "hot");
    seen.getContext("2d").clearRect(0, 0, seen.width, seen.height);
    seenBox.hidden = true;
  }

  function wipe() {
    clearTimeout(timer);
    paper.clear();
    trouble.clear();
    empty();
  }

  function changed() {
    if (paper.empty) return wipe(); // the last stroke was taken back
    given = wanted = null;
    changedAt ||= performance.now();
    frame.classList.add("filled");
    frame.classList.remove("hot");
    predict();
  }

  async function take(chosen) {
    if (!chosen) return;
    file.value = "";
    try {
      const picture = await createImageBitmap(chosen);
      wipe();
      paper.lay(picture);
      given = chosen;
      changedAt = performance.now();
      frame.classList.add("filled");
      predict();
    } catch {
      trouble.show(new Error(`${chosen.name || "That"} is not an image that this browser can read.`));
    }
  }

  /** What is on the paper, as the model is to get it. */
  async function asImage() {
    const all = { x: 0, y: 0, width: 1, height: 1 };
    if (given) return { body: given, type: given.type || "application/octet-stream", frame: all, shown: paper.canvas };
    const fitted = model.drawing ? likeTheData(paper.strokes, model.input.drawing) : { image: paper.plain(PLAIN), frame: all };
    const body = await new Promise((done) => fitted.image.toBlob(done, "image/png"));
    return { body, type: "image/png", frame: fitted.frame, shown: fitted.image };
  }

  const predict = newest(async () => {
    if (paper.empty) return;
    const began = changedAt || performance.now();
    changedAt = 0;
    const asked = await asImage();
    const row = await ask(route(model, "predict"), asked);
    if (paper.empty) return;
    [question, answer] = [asked, row];
    trouble.clear();
    shown.show(row, { explained: wanted, picture: asked.body });
    if (!whole && (given || model.drawing)) showSeen(asked.shown);
    requestAnimationFrame(() => performance.measure("answer", { start: began, end: performance.now() }));
    took = `Answered in ${Math.round(performance.now() - began)} ms.`;
    note.textContent = took;
    clearTimeout(timer);
    if (model.explain) timer = setTimeout(explain, REST);
  }, trouble.show);

  const explain = newest(async () => {
    const asked = question;
    if (!asked) return;
    const path = wanted === null ? "explain" : `explain?class=${encodeURIComponent(wanted)}`;
    const why = await ask(route(model, path), asked);
    if (asked !== question) return;
    drawHeat(why.heat, asked.frame);
    shown.show(answer, { explained: why.class, picture: asked.body });
    note.textContent = `${took} Lit up: what speaks for “${why.class}” (${why.method}). Choose another class to see what speaks for it.`;
  }, trouble.show);

  function explainClass(name) {
    if (!question) return;
    wanted = name;
    explain();
  }

  function showSeen(from) {
    const context = seen.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(from, 0, 0, seen.width, seen.height);
    seenBox.hidden = false;
  }

  /** Amber light where the evidence is, over the part of the paper that the model saw. */
  function drawHeat(rows, where) {
    const [height, width] = [rows.length, rows[0].length];
    const small = make("canvas", { width, height });
    const image = small.getContext("2d").createImageData(width, height);
    rows.flat().forEach((value, i) => image.data.set([255, 60 + 150 * value, 20 + 40 * value, 225 * Math.max(0, value - FAINT) / (1 - FAINT)], 4 * i));
    small.getContext("2d").putImageData(image, 0, 0);
    const side = (heatCanvas.width = heatCanvas.height = paperCanvas.width);
    const context = heatCanvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(small, where.x * side, where.y * side, where.width * side, where.height * side);
    frame.classList.add("hot");
  }

  function onPaste(event) {
    const picture = [...(event.clipboardData?.files ?? [])].find((f) => f.type.startsWith("image/"));
    if (picture) take(picture);
  }
  const onDrop = (event) => {
    event.preventDefault();
    frame.classList.remove("over");
    if (event.type === "drop") take(event.dataTransfer.files[0]);
  };
  const onOver = (event) => {
    event.preventDefault();
    frame.classList.add("over");
  };
  document.addEventListener("paste", onPaste);
  document.addEventListener("dragover", onOver);
  document.addEventListener("drop", onDrop);
  document.addEventListener("dragleave", onDrop);
  return {
    element,
    stop() {
      clearTimeout(timer);
      paper.observer.disconnect();
      document.removeEventListener("paste", onPaste);
      document.removeEventListener("dragover", onOver);
      document.removeEventListener("drop", onDrop);
      document.removeEventListener("dragleave", onDrop);
    },
  };
}
