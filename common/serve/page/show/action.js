// Actions: the best one in large letters, and what is expected of each.

import { bars, headline, number } from "../parts.js";

export function show(model) {
  const said = headline();
  let [low, high] = [0, 1];
  const scale = (value) => 0.08 + 0.92 * (value - low) / Math.max(high - low, 1e-6);
  const chart = bars({ label: "Return that is expected of each action", write: number, scale, most: Infinity });
  return {
    head: said.element,
    body: chart.element,
    show(row) {
      const values = Object.values(row[model.scores]);
      [low, high] = [Math.min(...values), Math.max(...values)];
      said.show(String(row[model.answer]), "");
      chart.show(model.classes, row[model.scores], row[model.answer]);
    },
    clear() {
      said.show("", "The answer appears here.");
      chart.show(model.classes, {}, null);
    },
  };
}
