// Numbers: the value in large letters, and the band in which it should lie.

import { headline, make, number } from "../parts.js";

const SHARE = 80; // percent of what is true that the band should hold

export function show(model) {
  const said = headline();
  const band = make("p", { className: "quiet" });
  return {
    head: said.element,
    body: band,
    show(row) {
      said.show(number(row[model.answer]), model.classes[0] ?? "");
      band.textContent = `${SHARE} % should lie between ${number(row.low)} and ${number(row.high)}.`;
    },
    clear() {
      said.show("", "The answer appears here.");
      band.textContent = "";
    },
  };
}
