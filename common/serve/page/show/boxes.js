// Boxes: the photo with what was found in it; a slider says how sure that must be, and pointing at a box what it is.

import { draw, headline, make, percent } from "../parts.js";

const MOST_SAID = 3; // classes in large letters
const [THIN, BOLD] = [2, 4]; // pixels of a line
const USUAL = 0.3; // the threshold of a model that knows no better one

export function show(model) {
  const said = headline();
  const photo = make("div", {});
  const slider = make("input", { type: "range", id: "threshold", min: 0.05, max: 0.99, step: 0.01, value: model.metrics?.threshold ?? USUAL, oninput: paint });
  const value = make("output", { htmlFor: "threshold" });
  const field = make("label", { className: "field", htmlFor: "threshold" }, "How sure, at least", slider, value);
  const list = make("ul", { "aria-label": "What was found" });
  Object.assign(list.style, { listStyle: "none", margin: "1rem 0 0", padding: 0, columns: "9rem", columnGap: "1rem" });
  const body = make("div", {}, photo, field, list);
  let row = null;
  let address = "";

  function paint() {
    const threshold = Number(slider.value);
    value.textContent = percent(threshold);
    if (!row) return;
    const shown = row[model.answer].filter((one) => one.score >= threshold);
    said.show(...summary(shown, row[model.answer].length - shown.length));
    const boxes = shown.map((one) => ({ one, element: box(one, row, colour(model.classes, one.class)) }));
    const image = draw("image", { width: row.width, height: row.height, href: address, preserveAspectRatio: "none" });
    // The largest first, so that smaller ones lie above and can be pointed at.
    const layers = [...boxes].sort((a, b) => area(b.one) - area(a.one)).map(({ element }) => element);
    const scene = draw("svg", { viewBox: `0 0 ${row.width} ${row.height}`, role: "img", "aria-label": said.element.textContent }, address ? image : "", ...layers);
    Object.assign(scene.style, { display: "block", width: "100%", borderRadius: "14px", marginBottom: "1rem" });
    photo.replaceChildren(scene);
    list.replaceChildren(...boxes.map(({ one, element }) => entry(one, element, colour(model.classes, one.class))));
  }

  paint();
  return {
    head: said.element,
    body,
    /** @param picture a blob of the image that was sent. */
    show(answer, { picture = null } = {}) {
      if (address) URL.revokeObjectURL(address);
      address = picture ? URL.createObjectURL(picture) : "";
      row = answer;
      field.hidden = false;
      paint();
    },
    clear() {
      row = null;
      said.show("", "The answer appears here.");
      photo.replaceChildren();
      list.replaceChildren();
      field.hidden = true;
    },
  };
}

const area = ({ box: [left, top, right, bottom] }) => (right - left) * (bottom - top);

/** A colour of its own for each class, around the wheel; readable on photos of any brightness with a dark edge. */
function colour(classes, name) {
  return `hsl(${Math.round((360 * classes.indexOf(name)) / classes.length + 210) % 360} 95% 62%)`;
}

function summary(shown, hidden) {
  const counts = new Map();
  for (const one of shown) counts.set(one.class, (counts.get(one.class) ?? 0) + 1);
  const often = [...counts].sort((a, b) => b[1] - a[1]);
  const text = often.slice(0, MOST_SAID).map(([name, count]) => (count > 1 ? `${count} × ${name}` : name)).join(", ");
  const others = often.length > MOST_SAID ? `and ${often.length - MOST_SAID} more classes; ` : "";
  const less = hidden ? `, ${hidden} less sure` : "";
  return shown.length ? [text, `${others}${shown.length} found${less}`] : ["Nothing", hidden ? `${hidden} less sure` : "was found"];
}

/** A line of the list; it and its box light up together. */
function entry(one, element, stroke) {
  const swatch = make("span", {}, "■ ");
  swatch.style.color = stroke;
  const item = make("li", { tabIndex: 0 }, swatch, `${one.class} `, make("span", { className: "quiet" }, percent(one.score)));
  const light = (on) => () => {
    element.querySelector(".line").setAttribute("stroke-width", on ? BOLD : THIN);
    element.querySelector(".line").setAttribute("fill-opacity", on ? 0.25 : 0);
    item.style.fontWeight = on ? 650 : "";
  };
  for (const part of [item, element]) {
    part.addEventListener("mouseenter", light(true));
    part.addEventListener("mouseleave", light(false));
  }
  item.addEventListener("focus", light(true));
  item.addEventListener("blur", light(false));
  return item;
}

function box(one, row, stroke) {
  const [left, top, right, bottom] = one.box;
  const place = { x: left, y: top, width: Math.max(0, right - left), height: Math.max(0, bottom - top), "vector-effect": "non-scaling-stroke" };
  const size = Math.max(row.width, row.height) / 30;
  const edge = { stroke: "#000", "stroke-opacity": 0.5 }; // so that a box is seen on photos of any brightness
  const text = {
    x: Math.min(left, row.width - 0.6 * size * Math.min(one.class.length, 12)), y: top > 1.3 * size ? top - 0.3 * size : top + 1.05 * size,
    fill: stroke, "font-size": size, "font-weight": 600, "paint-order": "stroke", "stroke-width": 0.16 * size, "pointer-events": "none",
  };
  return draw("g", { class: "box" },
    draw("rect", { ...place, ...edge, fill: "none", "stroke-width": BOLD }),
    draw("rect", { ...place, class: "line", stroke, "stroke-width": THIN, fill: stroke, "fill-opacity": 0, "pointer-events": "all" }),
    draw("text", { ...edge, ...text }, one.class),
    draw("title", {}, `${one.class}, ${percent(one.score)} sure`));
}
