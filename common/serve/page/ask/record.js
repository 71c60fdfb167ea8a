// Rows with numbers, categories and gaps: a slider or a choice for each column; what each says for the answer.

import { ask, newest, route } from "../api.js";
import { make, number, problem } from "../parts.js";

const REST = 200; // milliseconds without a change after which the answer is explained
const TELLING = 10; // columns that an explanation shows

export function view(model, show) {
  const shown = show(model, { pick: model.explain ? explainName : null });
  const trouble = problem();
  const fields = model.input.columns.map((column) => (column.categories.length ? choice : slider)(column, model.start[column.name], changed));
  const telling = make("ul", { className: "bars", "aria-label": "What the columns say" });
  const legend = make("p", { className: "quiet legend" });
  const why = make("section", { className: "why", "aria-label": "Why", hidden: true }, telling, legend);
  const again = () => {
    for (const field of fields) field.reset();
    changed();
  };
  const form = make("form", { className: "columns", onsubmit: (event) => event.preventDefault() }, ...fields.map((field) => field.element));
  const element = make("div", { className: "bench rows" },
    make("section", { "aria-label": "A row" }, form,
      make("div", { className: "tools" }, make("button", { type: "button", onclick: again }, "Start values again"))),
    make("section", { className: "stays", "aria-label": "The answer" }, shown.head, shown.body, why, trouble.element));
  let answer = null;
  let asked = "";
  let wanted = null;
  let timer = 0;

  function changed() {
    wanted = null;
    predict();
  }

  const body = () => JSON.stringify(Object.fromEntries(fields.map((field) => [field.name, field.value()])));

  const predict = newest(async () => {
    if (!form.checkValidity()) return;
    const sent = body();
    const row = await ask(route(model, "predict"), { body: sent });
    [asked, answer] = [sent, row];
    trouble.clear();
    shown.show(row, { explained: wanted });
    clearTimeout(timer);
    if (model.explain) timer = setTimeout(explain, REST);
  }, trouble.show);

  const explain = newest(async () => {
    const sent = asked;
    const path = wanted === null ? "explain" : `explain?class=${encodeURIComponent(wanted)}`;
    const found = await ask(route(model, path), { body: sent });
    if (sent !== body()) return;
    why.hidden = false;
    list(found);
    shown.show(answer, { explained: found.class });
  }, trouble.show);

  function explainName(name) {
    wanted = name;
    explain();
  }

  function list(found) {
    const ranked = found.columns.sort((a, b) => Math.abs(b[2]) - Math.abs(a[2])).slice(0, TELLING);
    const most = Math.max(1e-9, Math.abs(ranked[0][2]));
    const quantity = !found.unit; // a number's own unit: columns raise or lower it
    telling.style.setProperty("--names", "min(15rem, 30ch)");
    telling.replaceChildren(...ranked.map(([name, value, score]) => {
      const fill = make("span", { className: `fill ${score > 0 ? "for" : "against"}` });
      fill.style.setProperty("--strength", "100%");
      fill.style.transform = `scaleX(${Math.abs(score) / most})`;
      const text = `${name} = ${value === null ? "missing" : typeof value === "number" ? number(value) : value}`;
      return make("li", {}, make("div", { className: "bar" },
        make("span", { className: "name", title: text }, text), make("span", { className: "track" }, fill),
        make("span", { className: "value" }, `${score > 0 ? "+" : ""}${number(score)}`)));
    }));
    const [up, down] = quantity ? ["raises", "lowers"] : ["for", "against"];
    legend.replaceChildren(
      make("span", { className: "for" }, up), quantity ? " or " : " and ", make("span", { className: "against" }, down),
      ` “${found.class}”, by what is lost when the model does not know a column${quantity ? "" : ", in the logarithm of the probability"}.`);
  }

  return { element, start: predict, stop: () => clearTimeout(timer) };
}

/** A number: a slider between the least and the greatest of training, and a field for any. */
function slider(column, start, changed) {
  const span = column.points.at(-1) - column.points[0] || 1;
  const step = 10 ** Math.floor(Math.log10(span / 50)); // of the slider: round, and 50 to 500 of them
  const [least, greatest] = [Math.floor(column.points[0] / step) * step, Math.ceil(column.points.at(-1) / step) * step];
  const exact = make("input", { type: "number", step: "any", required: true, value: short(start), "aria-label": column.name, oninput: fromField });
  const range = make("input", { type: "range", min: least, max: greatest, step, "aria-label": `${column.name}, slider`, oninput: fromRange });
  const missing = column.gaps ? make("input", { type: "checkbox", onchange: toggle }) : null;
  range.value = start ?? least;
  const element = make("div", { className: "field" }, make("span", {}, column.name), exact, range,
    missing && make("label", { className: "check" }, missing, "missing"));

  function fromField() {
    range.value = exact.value;
    changed();
  }
  function fromRange() {
    exact.value = short(Number(range.value));
    changed();
  }
  function toggle() {
    exact.disabled = range.disabled = missing.checked;
    changed();
  }
  return {
    element,
    name: column.name,
    value: () => (missing?.checked ? null : Number(exact.value)),
    reset() {
      if (missing) exact.disabled = range.disabled = missing.checked = false;
      exact.value = short(start);
      range.value = start;
    },
  };
}

/** A category: a choice among those of training. */
function choice(column, start, changed) {
  const options = column.categories.map((text) => make("option", { value: text }, text));
  if (column.gaps) options.push(make("option", { value: "" }, "missing"));
  const select = make("select", { onchange: changed }, ...options);
  select.value = start ?? "";
  return {
    element: make("label", { className: "field" }, column.name, select),
    name: column.name,
    // A category may be an empty text nowhere: that is how a gap is written.
    value: () => select.value || null,
    reset() {
      select.value = start ?? "";
    },
  };
}

const short = (value) => String(Number(value.toPrecision(6)));
