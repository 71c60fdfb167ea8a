// Classes: the most probable one in large letters, and a bar for each.

import { bars, headline, percent } from "../parts.js";

/** @param pick is called with the name of a class that the visitor wants explained. */
export function show(model, { pick = null } = {}) {
  const said = headline();
  const chart = bars({ label: "Probability of each class", pick });
  return {
    head: said.element,
    body: chart.element,
    /** @param explained the class that an explanation is about. */
    show(row, { explained = null } = {}) {
      const scores = row[model.scores];
      said.show(String(row[model.answer]), `${percent(scores[row[model.answer]])} sure`);
      chart.show(model.classes, scores, row[model.answer], explained);
    },
    clear() {
      said.show("", "The answer appears here.");
      chart.show(model.classes, {}, null);
    },
  };
}
