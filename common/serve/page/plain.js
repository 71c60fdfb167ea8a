// What has no view of its own: an input, or an answer, as JSON.

import { ask, newest, route } from "./api.js";
import { make, problem } from "./parts.js";

export function view(model, show) {
  const field = make("textarea", { id: "raw", rows: 8, value: JSON.stringify(model.start), spellcheck: false, oninput: () => predict() });
  const shown = show(model);
  const trouble = problem();
  const predict = newest(async () => {
    const row = await ask(route(model, "predict"), { body: field.value });
    trouble.clear();
    shown.show(row);
  }, trouble.show);
  const element = make("div", { className: "bench" },
    make("section", {}, make("label", { className: "field", htmlFor: "raw" }, `The ${model.input.kind}, as JSON`), field),
    make("section", { "aria-label": "The answer" }, shown.head, shown.body, trouble.element));
  return { element, start: predict };
}

export function show() {
  const out = make("pre", { role: "status", "aria-live": "polite" });
  return {
    head: null,
    body: out,
    show(row) {
      out.textContent = JSON.stringify(row, null, 2);
    },
    clear() {
      out.textContent = "";
    },
    small: (row, alt) => make("span", { title: JSON.stringify(row) }, alt),
  };
}
