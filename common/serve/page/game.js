// Agents: watch one play, or act in its place.

import { ask, newest, route } from "./api.js";
import { bars, calm, make, number, problem } from "./parts.js";

const FRAME = 50; // milliseconds
const AHEAD = 6; // scenes that are asked for at a time

export function gameView(model) {
  const picture = make("img", { className: "scene", alt: "" });
  const play = make("button", { type: "button", className: "main", onclick: () => (playing ? pause() : resume()) }, "Play");
  const step = make("button", { type: "button", onclick: () => { pause(); act({ steps: 1 }); } }, "Step");
  const seed = make("input", { id: "seed", type: "number", min: 0, max: 2 ** 31 - 1, step: 1, value: 0 });
  const reset = make("button", { type: "button" }, "Begin again");
  const total = make("p", { className: "word" });
  const beside = make("p", { className: "beside" });
  const status = make("p", { className: "quiet", role: "status", "aria-live": "polite" });
  const trouble = problem();
  let [low, high] = [0, 1]; // the values seen in this game
  const chart = bars({
    label: "Actions, and the return that the agent expects of each", pick: choose, write: number, most: Infinity,
    scale: (value) => 0.08 + 0.92 * (value - low) / Math.max(high - low, 1e-6) });
  const form = make("form", { className: "tools", onsubmit: (event) => { event.preventDefault(); begin(); } },
    make("label", { className: "field row" }, "Seed", seed), reset);
  reset.type = "submit";
  const element = make("div", { className: "bench game" },
    make("section", { "aria-label": "The environment" }, picture, make("div", { className: "tools" }, play, step, form)),
    make("section", { "aria-label": "The agent" },
      make("div", { className: "headline" }, total, beside),
      make("h2", {}, "What it expects of each action"),
      chart.element,
      make("p", { className: "quiet note" }, "Choose an action to take a step yourself, by mouse or by its number key; space plays and pauses."),
      status, trouble.element));

  let actions = model.classes;
  let game = null;
  let scene = null;
  let coming = [];
  let playing = false;
  let gone = false; // another model is shown
  let timer = 0;
  let line = Promise.resolve(); // requests, one after the other

  /** Asks the server once the questions before are answered; begins anew where it has forgotten the game. */
  function send(asked) {
    line = line.catch(() => {}).then(async () => {
      if (game === null) return enter(asked);
      try {
        return (await ask(route(model, `games/${game}`), { body: JSON.stringify(asked) })).scenes;
      } catch (error) {
        if (error.status !== 404) throw error;
        return enter(asked);
      }
    });
    return line;
  }

  async function enter(asked) {
    const first = "seed" in asked ? asked : { seed: Number(seed.value) || 0 };
    const made = await ask(route(model, "games"), { body: JSON.stringify(first) });
    [game, actions] = [made.game, made.actions];
    return made.scenes;
  }

  async function act(asked) {
    try {
      while (coming.length) show(coming.shift()); // what the server has played already
      const scenes = await send(asked);
      coming.push(...scenes);
      while (coming.length) show(coming.shift());
      trouble.clear();
    } catch (error) {
      fail(error);
    }
  }

  async function begin() {
    coming = [];
    [low, high] = [Infinity, -Infinity];
    await act({ seed: Number(seed.value) || 0 });
    if (!gone && !calm()) resume();
  }

  function choose(name) {
    pause();
    act({ action: actions.indexOf(name) });
  }

  const refill = newest(async () => {
    if (!playing || coming.length > AHEAD || scene?.over) return;
    coming.push(...(await send({ steps: AHEAD })));
  }, fail);

  function resume() {
    if (scene?.over) {
      seed.value = (Number(seed.value) || 0) + 1;
      begin();
      return;
    }
    if (playing) return;
    playing = true;
    play.textContent = "Pause";
    status.textContent = "The agent plays.";
    timer = setInterval(() => {
      if (coming.length) show(coming.shift());
      refill();
    }, calm() ? 400 : FRAME);
  }

  function pause() {
    if (!playing) return;
    playing = false;
    clearInterval(timer);
    play.textContent = "Play";
    status.textContent = "Paused.";
  }

  function show(next) {
    scene = next;
    if (next.png) picture.src = `data:image/png;base64,${next.png}`;
    picture.alt = `${model.data} after ${next.step} steps`;
    low = Math.min(low, ...next.values);
    high = Math.max(high, ...next.values);
    const best = next.values.indexOf(Math.max(...next.values));
    const scores = Object.fromEntries(actions.map((name, i) => [name, next.values[i]]));
    chart.show(actions, scores, actions[best], next.action === null ? null : actions[next.action]);
    total.textContent = number(Math.round(100 * next.total) / 100);
    total.classList.toggle("long", total.textContent.length > 4);
    beside.textContent = `reward so far, step ${next.step}`;
    chart.enable(!next.over);
    step.disabled = next.over;
    if (!playing) play.textContent = "Play";
    if (next.over) {
      pause();
      play.textContent = "Next episode";
      status.textContent = `The episode is over after ${next.step} steps.`;
    }
  }

  function fail(error) {
    pause();
    trouble.show(error);
  }

  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || /INPUT|TEXTAREA|SELECT/.test(event.target.tagName)) return;
    const chosen = actions[Number(event.key) - 1];
    if (event.key === " " && !event.target.closest("button, summary, a")) {
      event.preventDefault();
      play.click();
    } else if (chosen !== undefined && event.key !== " " && !scene?.over) choose(chosen);
  }
  function leave() {
    if (game !== null) ask(route(model, `games/${game}`), { method: "DELETE", keepalive: true }).catch(() => {});
    game = null;
  }

  document.addEventListener("keydown", onKey);
  addEventListener("pagehide", leave);
  return {
    element,
    start: begin,
    stop() {
      gone = true;
      pause();
      document.removeEventListener("keydown", onKey);
      removeEventListener("pagehide", leave);
      line.catch(() => {}).then(leave);
    },
  };
}
