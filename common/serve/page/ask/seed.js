// Generators: a seed is a point of the latent space; walk from one to the next.

import { ask, newest, route } from "../api.js";
import { calm, make, problem } from "../parts.js";

const STEPS = 9; // pictures of the strip
const PACE = 0.01; // of the way, per frame of a walk

export function view(model, show) {
  const classes = model.input.classes ?? [];
  const seeds = ["from", "to"].map((id, i) => make("input", {
    id, type: "number", min: 0, max: 2 ** 31 - 1, step: 1, value: i + 7, oninput: () => reload() }));
  const wish = make("select", { id: "class", onchange: () => reload() }, ...classes.map((name) => make("option", { value: name }, name)));
  const slider = make("input", { id: "way", type: "range", min: 0, max: 1, step: 0.01, value: 0, oninput: () => { rest(); draw(); } });
  const shown = show(model);
  const strip = make("div", { className: "strip" });
  const walk = make("button", { type: "button", className: "main", onclick: () => (walking ? rest() : set_out()) }, "Walk");
  const other = make("button", { type: "button", onclick: somewhere }, "Somewhere else");
  const status = make("p", { className: "quiet", role: "status", "aria-live": "polite" });
  const trouble = problem();
  const element = make("div", { className: "bench" },
    make("section", { "aria-label": "The answer" }, shown.head, shown.body),
    make("section", { "aria-label": "Where in the latent space" },
      make("div", { className: "fields" },
        make("label", { className: "field" }, "From seed", seeds[0]),
        make("label", { className: "field" }, "To seed", seeds[1]),
        classes.length ? make("label", { className: "field" }, "Class", wish) : null),
      make("label", { className: "field" }, "On the way", slider),
      make("div", { className: "tools" }, walk, other), status,
      make("h2", {}, "The way"), strip, trouble.element));
  let ends = null; // the two latents
  let walking = 0;

  const input = (latent) => (classes.length ? { latent, class: wish.value } : { latent });

  async function paint(places) {
    const body = JSON.stringify({ instances: places.map((t) => input(between(...ends, t))) });
    return (await ask(route(model, "predict"), { body })).predictions;
  }

  const draw = newest(async () => {
    if (!ends) return;
    const place = Number(slider.value);
    const [row] = await paint([place]);
    slider.setAttribute("aria-valuetext", `${Math.round(100 * place)} %`);
    const what = classes.length ? `${wish.value}, ` : "";
    const alt = `${what}${Math.round(100 * place)} % of the way from seed ${seeds[0].value} to seed ${seeds[1].value}`;
    shown.show(row, { alt });
    trouble.clear();
  }, trouble.show);

  const reload = newest(async () => {
    if (seeds.some((seed) => !seed.checkValidity() || seed.value === "")) return;
    const points = await Promise.all(seeds.map((seed) => ask(route(model, `latents/${seed.value}`))));
    ends = points.map((point) => point.latent);
    draw();
    const places = Array.from({ length: STEPS }, (_, i) => i / (STEPS - 1));
    const rows = await paint(places);
    strip.replaceChildren(...rows.map((row, i) => make("button", {
      type: "button", title: `${Math.round(100 * places[i])} %`, onclick: () => { rest(); slider.value = places[i]; draw(); },
    }, shown.small?.(row, `${Math.round(100 * places[i])} % of the way`))));
  }, trouble.show);

  function somewhere() {
    ends = ends && [ends[1], ends[1]]; // stay there until the new end is known
    seeds[0].value = seeds[1].value;
    seeds[1].value = Math.floor(Math.random() * 1e6);
    slider.value = 0;
    reload();
  }

  function set_out() {
    walk.textContent = "Rest";
    status.textContent = "Walking.";
    if (Number(slider.value) >= 1) slider.value = 0;
    walking = setInterval(() => {
      slider.value = Number(slider.value) + (calm() ? 10 : 1) * PACE;
      draw();
      if (Number(slider.value) >= 1) somewhere();
    }, calm() ? 1000 : 40);
  }

  function rest() {
    clearInterval(walking);
    walking = 0;
    walk.textContent = "Walk";
    status.textContent = "";
  }

  return { element, start: reload, stop: rest };
}

/** Spherical interpolation: what lies between two latents has the length that the generator was trained on. */
function between(a, b, t) {
  const length = (v) => Math.hypot(...v);
  const cosine = a.reduce((sum, value, i) => sum + value * b[i], 0) / (length(a) * length(b) || 1);
  const angle = Math.acos(Math.max(-1, Math.min(1, cosine)));
  if (angle < 1e-4) return a;
  const [p, q] = [Math.sin((1 - t) * angle) / Math.sin(angle), Math.sin(t * angle) / Math.sin(angle)];
  return a.map((value, i) => p * value + q * b[i]);
}
