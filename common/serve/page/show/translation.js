// Translations: the text in parts; pointing at one shows where the model looked for it. Below, what else it might be.

import { make, percent } from "../parts.js";

export function show(model) {
  const said = make("p", { className: "marked written translated", role: "status", "aria-live": "polite" });
  const source = make("p", { className: "marked looked", "aria-label": "What was asked" });
  const legend = make("p", { className: "quiet legend", hidden: true },
    "Point at a part, above or below: the ", make("span", { className: "for" }, "stronger the ground"),
    ", the more the model looked from one to the other.");
  const others = make("ol", { className: "alternatives" });
  const beside = make("section", { className: "beside-it", "aria-label": "Alternatives", hidden: true }, make("h2", {}, "It might also be"), others);

  function ground(span, share) {
    span.classList.toggle("for", share > 0.05);
    span.style.setProperty("--strength", `${Math.round(55 * Math.min(1, share))}%`);
  }

  /** A part that a mouse, a finger or the keyboard can point at. */
  function part(text, more, point) {
    const [on, off] = [() => point(true), () => point(false)];
    return make("span", { className: "part", onmouseenter: on, onmouseleave: off, onfocus: on, onblur: off, ...more }, text);
  }

  function paint(row) {
    const targets = row.pieces.map(([text, share], t) => part(text, { title: percent(share), tabIndex: 0 }, (on) =>
      sources.forEach((span, s) => ground(span, on ? row.attention[t][s] : 0))));
    const sources = row.source_pieces.map((text, s) => part(text, {}, (on) =>
      targets.forEach((span, t) => ground(span, on ? row.attention[t][s] : 0))));
    said.replaceChildren(...targets);
    source.replaceChildren(...sources);
  }

  return {
    head: null,
    body: make("div", {}, said, source, legend, beside),
    show(row) {
      paint(row);
      legend.hidden = !row.pieces.length;
      beside.hidden = !row.alternatives.length;
      others.replaceChildren(...row.alternatives.map(([text, share]) =>
        make("li", {}, text || "(nothing)", make("span", { className: "quiet" }, ` ${likely(share)}`))));
    },
    clear() {
      said.textContent = "The translation appears here.";
      source.replaceChildren();
      legend.hidden = beside.hidden = true;
    },
  };
}

/** The probability of a whole text, which for a long one is small. */
function likely(share) {
  return share >= 0.001 ? percent(share) : share > 0 ? share.toExponential(0).replace("-", "−") : "0 %";
}
