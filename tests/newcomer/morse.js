// Morse code: a button for each sign.

import { ask, newest, route } from "../api.js";
import { make, problem } from "../parts.js";

export function view(model, show) {
  const shown = show(model);
  const trouble = problem();
  const message = make("output", { id: "message" }, model.start);
  const predict = newest(async () => {
    const row = await ask(route(model, "predict"), { body: message.textContent, type: "audio/x-morse" });
    trouble.clear();
    shown.show(row);
  }, trouble.show);
  const add = (sign) => () => {
    message.textContent += sign;
    predict();
  };
  const element = make("div", { className: "bench" },
    make("section", {}, message,
      make("button", { type: "button", onclick: add(".") }, "Dot"), make("button", { type: "button", onclick: add("-") }, "Dash")),
    make("section", { "aria-label": "The answer" }, shown.head, shown.body, trouble.element));
  return { element, start: predict };
}
