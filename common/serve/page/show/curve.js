// Forecasts: a fan of bands around the median for each column, after the end of its history.

import { draw, headline, make, number } from "../parts.js";

const [NARROW, WIDE, HEIGHT] = [300, 640, 340]; // as wide as its place, so that its letters keep their size
const EDGE = { left: 58, right: 12, top: 12, bottom: 30 };
const LETTER = 8.5; // pixels of one in a label, at most
const KNOWN = 3; // horizons of history that are drawn

export function show(model) {
  const said = headline();
  const choice = make("select", { id: "column", onchange: () => paint() });
  const column = make("label", { className: "field" }, "Column", choice);
  const fan = make("div", { role: "img" });
  const legend = make("p", { className: "quiet legend" });
  const table = make("pre", {});
  const all = make("details", {}, make("summary", {}, "All numbers, as CSV"), table);
  const body = make("div", {}, column, fan, legend, all);
  let row = null;
  let width = 0;
  new ResizeObserver(() => row && fan.clientWidth !== width && paint()).observe(fan);
  let history = {};

  function paint() {
    const name = choice.value;
    const bands = row.forecast[name];
    const levels = Object.keys(bands);
    const middle = levels[(levels.length - 1) / 2];
    const [low, high] = [levels[0], levels.at(-1)];
    const last = row.time.length - 1;
    const between = `${number(bands[low][last])} to ${number(bands[high][last])}`;
    const share = Math.round(100 * (Number(high) - Number(low)));
    said.show(number(bands[middle][0]), `${name} at ${row.time[0]}`);
    width = fan.clientWidth;
    const known = (history[name] ?? []).slice(-KNOWN * row.time.length);
    fan.replaceChildren(chart(bands, levels, known, row.time, Math.min(WIDE, Math.max(NARROW, width || WIDE))));
    fan.setAttribute("aria-label", `Forecast of ${name} until ${row.time[last]}: ${number(bands[middle][last])}, with ${share} % between ${between}`);
    legend.textContent = `The line is the median. The widest band should hold ${share} % of what comes: at ${row.time[last]}, ${between}.`;
    const lines = row.time.map((time, i) => [time, ...levels.map((level) => bands[level][i])].join(","));
    table.textContent = [["time", ...levels].join(","), ...lines].join("\n");
  }

  return {
    head: said.element,
    body,
    /** @param history of each column, the numbers that the forecast follows. */
    show(answer, { history: known = {} } = {}) {
      [row, history] = [answer, known];
      const names = Object.keys(row.forecast);
      if (names.join() !== [...choice.options].map((option) => option.value).join()) {
        choice.replaceChildren(...names.map((name) => make("option", { value: name }, name)));
      }
      column.hidden = names.length < 2;
      paint();
    },
    clear() {
      said.show("", "The answer appears here.");
      fan.replaceChildren();
      legend.textContent = table.textContent = "";
    },
  };
}

function chart(bands, levels, known, times, width) {
  const steps = times.length;
  const values = [...known, ...bands[levels[0]], ...bands[levels.at(-1)]].filter(Number.isFinite);
  const ticks = nice(Math.min(...values), Math.max(...values));
  const [bottom, top] = [ticks[0], ticks.at(-1)];
  const from = 1 - Math.max(known.length, 1);
  const x = (step) => EDGE.left + (width - EDGE.left - EDGE.right) * (step - from) / (steps - from);
  const y = (value) => EDGE.top + (HEIGHT - EDGE.top - EDGE.bottom) * (top - value) / (top - bottom);
  const path = (numbers, first) => numbers.map((value, i) => `${i ? "L" : "M"}${x(first + i).toFixed(1)} ${y(value).toFixed(1)}`).join("");
  // A band begins at the last known value: the fan opens there.
  const origin = known.length ? [known.at(-1)] : [];
  const start = known.length ? 0 : 1;
  const area = (low, high) => `${path([...origin, ...low], start)}${path([...origin, ...high], start).split(/(?=[ML])/).reverse().join("").replaceAll("M", "L")}Z`;
  const middle = (levels.length - 1) / 2;
  const parts = ticks.map((tick) => draw("g", {},
    draw("line", { x1: EDGE.left, x2: width - EDGE.right, y1: y(tick), y2: y(tick), stroke: "var(--grid)" }),
    draw("text", { x: EDGE.left - 8, y: y(tick) + 4, "text-anchor": "end", fill: "var(--muted)", "font-size": 13 }, number(tick))));
  for (let i = 0; i < middle; i++) {
    parts.push(draw("path", { d: area(bands[levels[i]], bands[levels[levels.length - 1 - i]]), fill: "var(--accent)", "fill-opacity": 0.16 }));
  }
  if (known.length) parts.push(draw("path", { d: path(known, from), fill: "none", stroke: "var(--muted)", "stroke-width": 1.6, "stroke-linejoin": "round" }));
  parts.push(draw("path", { d: path([...origin, ...bands[levels[middle]]], start), fill: "none", stroke: "var(--accent)", "stroke-width": 2.4, "stroke-linejoin": "round" }));
  const label = (step, text, anchor) => draw("text", { x: x(step), y: HEIGHT - 8, "text-anchor": anchor, fill: "var(--muted)", "font-size": 13 }, text);
  const room = known.length ? x(steps) - x(1) : (x(steps) - x(1)) / 2;
  if (steps === 1 || room > LETTER * times[0].length) parts.push(label(1, times[0], known.length ? "end" : "start"));
  if (steps > 1) parts.push(label(steps, times.at(-1), "end"));
  return draw("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width: "100%" }, ...parts);
}

/** Four to eight round numbers that reach from below the least to above the greatest. */
function nice(least, greatest) {
  const span = greatest - least || Math.abs(greatest) || 1;
  const power = 10 ** Math.floor(Math.log10(span / 4));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => span / each <= 6);
  const begin = Math.floor(least / step);
  const end = Math.max(Math.ceil(greatest / step), begin + 1);
  return Array.from({ length: end - begin + 1 }, (_, i) => Number(((begin + i) * step).toPrecision(12)));
}
