// Pictures, as the model made them.

import { make } from "../parts.js";

export function show(model) {
  const picture = make("img", { className: "made", alt: "" });
  const source = (row) => `data:image/png;base64,${row[model.answer]}`;
  return {
    head: null,
    body: picture,
    /** @param alt what the picture is, for who can't see it. */
    show(row, { alt = "The picture" } = {}) {
      picture.src = source(row);
      picture.alt = alt;
    },
    clear() {
      picture.removeAttribute("src");
    },
    /** A small one beside others. */
    small: (row, alt) => make("img", { src: source(row), alt }),
  };
}
