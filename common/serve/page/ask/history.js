// Histories: paste a table, or drop a CSV; the curve goes on as it is typed.

import { ask, newest, route } from "../api.js";
import { make, problem } from "../parts.js";

const REST = 200; // milliseconds without typing after which the forecast is made anew

export function view(model, show) {
  const { names, lookback, time } = model.input;
  const field = make("textarea", { id: "history", rows: 14, value: asCsv(model.start), spellcheck: false, oninput: changed });
  const file = make("input", { type: "file", accept: ".csv,.tsv,.txt,.json,text/csv", className: "hidden-input", id: "file", onchange: () => take(file.files[0]) });
  const again = make("button", { type: "button", onclick: () => put(asCsv(model.start)) }, "The example again");
  const needs = [...(time ? [`“${time}”`] : []), ...names.map((name) => `“${name}”`)];
  const shown = show(model);
  const trouble = problem();
  const element = make("div", { className: "bench" },
    make("section", { "aria-label": "A history" },
      make("label", { className: "field", htmlFor: "history" }, "Your table, as CSV; a file may be dropped anywhere"), field,
      make("div", { className: "tools" },
        make("span", { className: "file" }, file, make("label", { className: "button", htmlFor: "file" }, "Choose a file")), again),
      make("p", { className: "quiet legend" }, `Columns: ${needs.slice(0, 8).join(", ")}${needs.length > 8 ? ", …" : ""}. The last ${lookback} rows count.`)),
    make("section", { "aria-label": "The answer" }, shown.head, shown.body, trouble.element));
  let timer = 0;

  function changed() {
    clearTimeout(timer);
    timer = setTimeout(predict, REST);
  }

  function put(text) {
    field.value = text;
    field.scrollTop = field.scrollHeight; // the newest rows are last
    predict();
  }

  async function take(chosen) {
    if (!chosen) return;
    file.value = "";
    put(await chosen.text());
  }

  const predict = newest(async () => {
    clearTimeout(timer);
    const text = field.value;
    const row = await ask(route(model, "predict"), { body: text, type: "text/csv" });
    trouble.clear();
    shown.show(row, { history: rowsOf(text, names) });
  }, trouble.show);

  const onDrop = (event) => {
    event.preventDefault();
    if (event.type === "drop") take(event.dataTransfer.files[0]);
  };
  document.addEventListener("dragover", onDrop);
  document.addEventListener("drop", onDrop);
  return {
    element,
    start: () => put(field.value),
    stop() {
      clearTimeout(timer);
      document.removeEventListener("dragover", onDrop);
      document.removeEventListener("drop", onDrop);
    },
  };
}

/** A table of columns as CSV. */
function asCsv(columns) {
  const names = Object.keys(columns);
  const count = columns[names[0]].length;
  const cell = (value) => (/[",\n]/.test(String(value)) ? `"${String(value).replaceAll('"', '""')}"` : String(value));
  const lines = Array.from({ length: count }, (_, i) => names.map((name) => cell(columns[name][i])).join(","));
  return [names.map(cell).join(","), ...lines].join("\n");
}

/** The numbers of some columns, to be drawn; the server has checked the table. */
function rowsOf(text, names) {
  if (text.trimStart().startsWith("{")) return JSON.parse(text);
  const lines = text.replace(/^\ufeff/, "").split(/\r?\n/).filter((line) => line.trim());
  const separator = [",", ";", "\t", "|"].reduce((best, each) => (lines[0].split(each).length > lines[0].split(best).length ? each : best));
  const cells = lines.map((line) => line.split(separator).map((cell) => cell.trim().replace(/^"(.*)"$/, "$1")));
  return Object.fromEntries(names.map((name) => {
    const place = cells[0].indexOf(name);
    return [name, cells.slice(1).map((row) => Number(row[place]))];
  }));
}
