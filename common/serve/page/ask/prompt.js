// Prompts: the beginning of a text; see how it goes on, and how much each piece was expected.

import { ask, listen, route } from "../api.js";
import { make, problem } from "../parts.js";

// Each option as a field: its label, the smallest and largest value, and the step between two.
const NUMBERS = {
  max_tokens: ["Tokens at most", 1, 2048, 1],
  temperature: ["Temperature", 0, 2, 0.1],
  top_p: ["Top-p", 0, 1, 0.05],
  seed: ["Seed", 0, 2 ** 31 - 1, 1],
};

export function view(model, show) {
  const { prompt, ...usual } = model.start;
  const field = make("textarea", { id: "prompt", rows: 7, value: prompt, spellcheck: false, onkeydown: hurry });
  const inputs = Object.fromEntries(Object.entries(NUMBERS).map(([name, [, min, max, step]]) => [
    name, make("input", { id: name, type: "number", min, max, step, value: usual[name], required: true })]));
  const fields = Object.entries(NUMBERS).map(([name, [label]]) => make("label", { className: "field" }, label, inputs[name]));
  const write = make("button", { type: "button", className: "main", onclick: () => run() }, "Continue");
  const other = make("button", { type: "button", onclick: another }, "Another");
  const stop = make("button", { type: "button", onclick: () => ending?.abort(), disabled: true }, "Stop");
  const take = make("button", { type: "button", onclick: keep, disabled: true }, "Keep it and go on");
  const status = make("p", { className: "quiet", role: "status", "aria-live": "polite" });
  const shown = show(model);
  const trouble = problem();
  const element = make("div", { className: "bench" },
    make("section", {},
      make("label", { className: "field", htmlFor: "prompt" }, "How it begins"), field,
      make("div", { className: "tools" }, write, other, stop, take), status,
      make("h2", {}, "How it is chosen"), make("div", { className: "fields" }, ...fields)),
    make("section", { "aria-label": "How it goes on" }, shown.head, shown.body, trouble.element));
  let answer = null;
  let running = false;
  let ending = null;

  async function run() {
    if (running || Object.values(inputs).some((input) => !input.reportValidity())) return;
    running = true;
    ending = new AbortController();
    status.textContent = "Writing …";
    for (const button of [write, other, take]) button.disabled = true;
    stop.disabled = false;
    const options = Object.fromEntries(Object.entries(inputs).map(([name, input]) => [name, Number(input.value)]));
    const prompt = field.value;
    const row = { text: "", tokens: 0, pieces: [] };
    try {
      // What the model expected of the prompt itself is in no stream.
      const read = await ask(route(model, "predict"), { body: JSON.stringify({ prompt, max_tokens: 1, temperature: 0 }) });
      row.prompt_pieces = read.prompt_pieces;
      const asked = { model: model.name, prompt, ...options, logprobs: 1, stream: true, stream_options: { include_usage: true } };
      await listen("/v1/completions", asked, ({ choices, usage }) => {
        for (const { text, logprobs } of choices) {
          row.text += text;
          logprobs.tokens.forEach((piece, number) => row.pieces.push([piece, Math.exp(logprobs.token_logprobs[number])]));
        }
        if (usage) row.tokens = usage.completion_tokens;
        shown.show(row, { prompt });
      }, ending.signal);
      status.textContent = `${row.tokens} tokens`;
      trouble.clear();
    } catch (error) {
      status.textContent = error.name === "AbortError" ? "Stopped" : "";
      if (error.name !== "AbortError") trouble.show(error);
    }
    answer = { prompt, row };
    running = false;
    stop.disabled = true;
    write.disabled = other.disabled = take.disabled = false;
  }

  function another() {
    inputs.seed.value = Number(inputs.seed.value) + 1;
    run();
  }

  function keep() {
    field.value = answer.prompt + answer.row.text;
    run();
  }

  function hurry(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) run();
  }

  return { element, start: run, stop: () => ending?.abort() };
}
