// What has no view of its own: the input and the answer as JSON.

import { ask, newest, route } from "./api.js";
import { make, problem } from "./parts.js";

export function view(model) {
  const field = make("textarea", { id: "raw", rows: 8, value: JSON.stringify(model.start), spellcheck: false, oninput: () => predict() });
  const out = make("pre", { role: "status", "aria-live": "polite" });
  const trouble = problem();
  const predict = newest(async () => {
    const row = await ask(route(model, "predict"), { body: field.value });
    trouble.clear();
    out.textContent = JSON.stringify(row, null, 2);
  }, trouble.show);
  const element = make("div", { className: "bench" },
    make("section", {}, make("label", { className: "field", htmlFor: "raw" }, `The ${model.input.kind}, as JSON`), field),
    make("section", { "aria-label": "The answer" }, out, trouble.element));
  return { element, start: predict };
}
