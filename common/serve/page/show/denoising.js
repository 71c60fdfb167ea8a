// Pictures that grow out of noise: shown step by step where their way is known.

import { calm, make } from "../parts.js";
import { show as plain } from "./picture.js";

const PACE = 1500; // milliseconds of a way

export function show(model) {
  const still = plain(model);
  const strip = make("div", { className: "strip" });
  const png = (content) => ({ [model.answer]: content });
  let playing = 0;

  return {
    ...still,
    body: make("div", {}, still.body, strip),
    show(row, { alt = "The picture" } = {}) {
      clearInterval(playing);
      const way = row.path ?? [];
      const every = Math.max(1, Math.ceil(way.length / 9));
      const shown = way.filter((_, i) => (way.length - 1 - i) % every === 0);
      strip.replaceChildren(...shown.map((content, i) => make("button", {
        type: "button", title: `Moment ${i + 1} of ${shown.length}`, onclick: () => { clearInterval(playing); still.show(png(content), { alt }); },
      }, still.small(png(content), `Moment ${i + 1} of ${shown.length}`))));
      if (!way.length || calm()) {
        still.show(row, { alt });
        return;
      }
      let step = 0;
      playing = setInterval(() => {
        still.show(step < way.length ? png(way[step]) : row, { alt });
        if (step++ >= way.length) clearInterval(playing);
      }, PACE / (way.length + 1));
    },
    clear() {
      clearInterval(playing);
      strip.replaceChildren();
      still.clear();
    },
  };
}
