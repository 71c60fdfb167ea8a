// The parts that several kinds of models share: elements, bars, the answer in large letters.

/** An element; properties by name, `on…` as listeners, `aria-…`, `for` and the like as attributes. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element && !name.includes("-")) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

const SPACE = "http://www.w3.org/2000/svg";

/** An SVG element; its colours are classes' or the page's, so that it follows light and dark. */
export function draw(tag, attributes, ...children) {
  const element = document.createElementNS(SPACE, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export function percent(share) {
  const value = 100 * share;
  return value > 99.95 && share < 1 ? "> 99.9 %" : `${value.toFixed(1)} %`;
}

export function number(value) {
  const size = Math.abs(value);
  return Number.isInteger(value) && size < 1e6 ? String(value) : value.toPrecision(size < 1 ? 2 : 4).replace("-", "−");
}

export const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** The answer: a word read from across the room, and beside it how sure the model is. */
export function headline() {
  const word = make("p", { className: "word" });
  const beside = make("p", { className: "beside" });
  const element = make("div", { className: "headline", role: "status", "aria-live": "polite", "aria-atomic": "true" }, word, beside);
  return {
    element,
    show(text, note) {
      word.textContent = text;
      word.classList.toggle("long", text.length > 3);
      beside.textContent = note;
      element.classList.toggle("empty", !text);
    },
  };
}

const MANY = 12; // classes; of more only the likeliest are shown

/**
 * A bar for each class, as a button where the class can be picked.
 *
 * @param scale puts a score between 0 and 1; @param most number of bars, above which only the likeliest are shown.
 */
export function bars({ label, pick = null, write = percent, scale = (score) => score, most = MANY }) {
  const element = make("ul", { className: "bars", "aria-label": label });
  const rows = new Map();

  function row(name) {
    if (rows.has(name)) return rows.get(name);
    const fill = make("span", { className: "fill" });
    const value = make("span", { className: "value" });
    const inside = [make("span", { className: "name", title: name }, name), make("span", { className: "track" }, fill), value];
    const button = pick
      ? make("button", { type: "button", className: "bar", onclick: () => pick(name) }, ...inside)
      : make("div", { className: "bar" }, ...inside);
    const made = { item: make("li", {}, button), button, fill, value };
    rows.set(name, made);
    return made;
  }

  return {
    element,
    /** @param scores by class; @param chosen the class to stand out; @param pressed the class that is explained. */
    show(names, scores, chosen, pressed = null) {
      const shown = names.length > most ? Object.entries(scores).sort((a, b) => b[1] - a[1]).slice(0, 8).map(([n]) => n) : names;
      const longest = Math.max(2, ...names.map((name) => name.length));
      element.style.setProperty("--names", `min(8.5rem, ${longest + 1}ch)`);
      const items = shown.map((name) => {
        const { item, button, fill, value } = row(name);
        const score = scores[name];
        fill.style.transform = `scaleX(${score === undefined ? 0 : Math.max(0, Math.min(1, scale(score)))})`;
        value.textContent = score === undefined ? "" : write(score);
        item.classList.toggle("chosen", name === chosen);
        if (pick) button.setAttribute("aria-pressed", String(name === pressed));
        return item;
      });
      if (items.length !== element.children.length || items.some((item, i) => element.children[i] !== item)) element.replaceChildren(...items);
    },
    /** Every button on or off. */
    enable(on) {
      for (const { button } of rows.values()) button.disabled = !on;
    },
  };
}

/** A line for what went wrong. */
export function problem() {
  const element = make("p", { className: "problem", role: "alert", hidden: true });
  return {
    element,
    show(error) {
      element.textContent = error.message;
      element.hidden = false;
    },
    clear() {
      element.hidden = true;
    },
  };
}
