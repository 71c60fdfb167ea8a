// Diffusion and flows: a seed becomes a picture, step by step.

import { ask, newest, route } from "../api.js";
import { make, number, problem } from "../parts.js";

export function view(model, show) {
  const { classes = [], steps, guidance } = model.input;
  const redraw = () => draw();
  const seed = make("input", { id: "seed", type: "number", min: 0, max: 2 ** 31 - 1, step: 1, value: 7, oninput: redraw });
  const wish = make("select", { id: "class", onchange: redraw }, ...classes.map((name) => make("option", { value: name }, name)));
  const count = slider("steps", { min: 1, max: Math.max(50, steps), step: 1, value: steps });
  const pull = slider("guidance", { min: 0, max: 6, step: 0.1, value: guidance });
  const shown = show(model);
  const another = make("button", { type: "button", className: "main", onclick: () => { seed.value = Math.floor(Math.random() * 1e6); draw(); } }, "Another");
  const again = make("button", { type: "button", onclick: redraw }, "Again, step by step");
  const status = make("p", { className: "quiet", role: "status", "aria-live": "polite" });
  const trouble = problem();
  const element = make("div", { className: "bench" },
    make("section", { "aria-label": "The answer" }, shown.head, shown.body),
    make("section", { "aria-label": "What to draw" },
      make("div", { className: "fields" },
        make("label", { className: "field" }, "Seed", seed),
        classes.length ? make("label", { className: "field" }, "Class", wish) : null),
      count.element, classes.length ? pull.element : null,
      make("div", { className: "tools" }, another, again), status, trouble.element));

  /** A range with its value beside its name. */
  function slider(name, properties) {
    const value = make("span", {}, number(properties.value));
    const range = make("input", { id: name, type: "range", ...properties, oninput: () => { value.textContent = number(Number(range.value)); draw(); } });
    const label = `${name[0].toUpperCase()}${name.slice(1)}: `;
    return { range, element: make("label", { className: "field" }, label, value, range) };
  }

  const draw = newest(async () => {
    if (!seed.checkValidity() || seed.value === "") return;
    const input = { seed: Number(seed.value), steps: Number(count.range.value), path: true };
    if (classes.length) Object.assign(input, { class: wish.value, guidance: Number(pull.range.value) });
    const [row] = (await ask(route(model, "predict"), { body: JSON.stringify({ instances: [input] }) })).predictions;
    const what = row.class === undefined ? "" : `${row.class}, `;
    shown.show(row, { alt: `${what}seed ${row.seed}, ${input.steps} steps` });
    status.textContent = `${input.steps} steps from noise to picture.`;
    trouble.clear();
  }, trouble.show);

  return { element, start: draw, stop() {} };
}
