// Rows of a table: a field for each column.

import { ask, newest, route } from "../api.js";
import { make, problem } from "../parts.js";

export function view(model, show) {
  const shown = show(model);
  const trouble = problem();
  const fields = model.input.names.map((name) => {
    const start = model.start[name];
    const field = make("input", { type: "number", step: "any", required: true, value: String(Number(start.toPrecision(6))), oninput: () => predict() });
    field.dataset.start = field.value;
    field.dataset.name = name;
    return field;
  });
  const restore = () => {
    for (const field of fields) field.value = field.dataset.start;
    predict();
  };
  const form = make("form", { className: "columns", onsubmit: (event) => event.preventDefault() },
    ...fields.map((field) => make("label", { className: "field" }, field.dataset.name, field)));
  const element = make("div", { className: "bench rows" },
    make("section", { "aria-label": "A row" }, form,
      make("div", { className: "tools" }, make("button", { type: "button", onclick: restore }, "Start values again"))),
    make("section", { className: "stays", "aria-label": "The answer" }, shown.head, shown.body, trouble.element));

  const predict = newest(async () => {
    if (!form.checkValidity()) return;
    const body = JSON.stringify(Object.fromEntries(fields.map((field) => [field.dataset.name, Number(field.value)])));
    const row = await ask(route(model, "predict"), { body });
    trouble.clear();
    shown.show(row);
  }, trouble.show);
  return { element, start: predict };
}
