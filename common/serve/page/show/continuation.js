// Texts that go on: the prompt, then what was written, each piece on a ground as strong as it was unexpected.

import { make, percent } from "../parts.js";

const BITS = 10; // of surprise, from which on all are alike

/** A piece on the ground that its probability asks for. */
export function grounded([content, share], title = percent(share)) {
  const surprise = Math.min(1, -Math.log2(Math.max(share, 1e-9)) / BITS);
  const span = make("span", { title }, content);
  if (surprise > 0.05) {
    span.className = "against";
    span.style.setProperty("--strength", `${Math.round(55 * surprise)}%`);
  }
  return span;
}

export function show(model) {
  const text = make("p", { className: "marked written" });
  const legend = make("p", { className: "quiet legend", hidden: true },
    "The less the model expected a piece, the ", make("span", { className: "against" }, "stronger its ground"), ".");

  return {
    head: null,
    body: make("div", {}, text, legend),
    /** @param prompt what came before; of a long one the model saw only the end. */
    show(row, { prompt = "" } = {}) {
      const seen = row.prompt_pieces ?? [];
      const unseen = prompt.slice(0, Math.max(0, prompt.length - seen.map(([content]) => content).join("").length));
      const before = make("span", { className: "prompt" }, unseen, ...seen.map((piece) => grounded(piece)));
      text.replaceChildren(before, ...row.pieces.map((piece) => grounded(piece)));
      legend.hidden = false;
    },
    clear() {
      text.textContent = "The text appears here.";
      legend.hidden = true;
    },
  };
}
