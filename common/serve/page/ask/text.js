// Texts: type one; see the answer, and what each word says for it.

import { ask, newest, route } from "../api.js";
import { make, problem } from "../parts.js";

const REST = 250; // milliseconds without typing after which the answer is explained

export function view(model, show) {
  const field = make("textarea", { id: "text", rows: 7, value: model.start ?? "", spellcheck: false, oninput: changed });
  const shown = show(model, { pick: model.explain ? explainClass : null });
  const marked = make("p", { className: "marked" });
  const legend = make("p", { className: "quiet legend" });
  const why = make("section", { className: "why", "aria-label": "What the words say", hidden: true }, marked, legend);
  const trouble = problem();
  const element = make("div", { className: "bench" },
    make("section", {}, make("label", { className: "field", htmlFor: "text" }, "Your text"), field, why),
    make("section", { "aria-label": "The answer" }, shown.head, shown.body, trouble.element));
  let asked = "";
  let answer = null;
  let wanted = null;
  let timer = 0;

  function changed() {
    wanted = null;
    predict();
  }

  const predict = newest(async () => {
    const text = field.value;
    const row = await ask(route(model, "predict"), { body: text, type: "text/plain" });
    [asked, answer] = [text, row];
    trouble.clear();
    shown.show(row, { explained: wanted });
    clearTimeout(timer);
    if (model.explain) timer = setTimeout(explain, REST);
  }, trouble.show);

  const explain = newest(async () => {
    const text = asked;
    const path = wanted === null ? "explain" : `explain?class=${encodeURIComponent(wanted)}`;
    const found = await ask(route(model, path), { body: text, type: "text/plain" });
    if (text !== field.value) return;
    why.hidden = !text.trim();
    mark(found.tokens);
    legend.replaceChildren(
      make("span", { className: "for" }, "for"), ` and `, make("span", { className: "against" }, "against"),
      ` “${found.class}”, by what its probability loses when a piece is hidden.`);
    shown.show(answer, { explained: found.class });
  }, trouble.show);

  function explainClass(name) {
    wanted = name;
    explain();
  }

  function mark(tokens) {
    const strongest = Math.max(1e-9, ...tokens.map(([, score]) => Math.abs(score ?? 0)));
    marked.replaceChildren(...tokens.map(([piece, score]) => {
      if (score === null || Math.abs(score) < 0.05 * strongest) return piece;
      const span = make("span", { className: score > 0 ? "for" : "against", title: `${score > 0 ? "+" : "−"}${Math.abs(score).toFixed(2)}` }, piece);
      span.style.setProperty("--strength", `${Math.round(55 * Math.abs(score) / strongest)}%`);
      return span;
    }));
  }

  return { element, start: predict, stop: () => clearTimeout(timer) };
}
