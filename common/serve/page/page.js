// The frame: the list of models, the address, the head of a model, and the report of its run.

import { ask, hasToken, route } from "./api.js";
import { make, number, percent, problem } from "./parts.js";
import { gameView } from "./game.js";

const SHARES = /accuracy|precision|recall|f1|auc|miou|map|^(wer|per)$/;
const stage = document.getElementById("stage");
const list = document.getElementById("models");
let models = [];
let stop = () => {};
let turn = 0; // counts models shown: only the newest choice counts

/** A kind of input is asked by ask/KIND.js, a kind of answer shown by show/KIND.js; the server found them by name. */
async function viewOf(model) {
  if (model.play) return gameView(model);
  const [{ view }, { show }] = await Promise.all([import(`./${model.ask}`), import(`./${model.show}`)]);
  return view(model, show);
}

async function show() {
  const name = decodeURIComponent(location.hash.slice(1));
  const chosen = models.find((model) => model.name === name) ?? models[0];
  for (const link of list.children) {
    if (link.dataset.name === chosen.name) {
      link.setAttribute("aria-current", "page");
      list.scrollTo({ left: link.offsetLeft - (list.clientWidth - link.clientWidth) / 2 });
    } else link.removeAttribute("aria-current");
  }
  stop();
  stop = () => {};
  const mine = ++turn;
  const trouble = problem();
  try {
    const model = await ask(route(chosen, "page"));
    if (mine !== turn) return;
    const made = await viewOf(model);
    if (mine !== turn) return made.stop?.();
    stop = made.stop ?? stop;
    document.title = `${model.task} – PyTorch Use Cases`;
    stage.replaceChildren(head(model), made.element, ...report(model));
    made.start?.();
  } catch (error) {
    if (mine !== turn) return;
    trouble.show(error);
    stage.replaceChildren(trouble.element);
  }
}

function head(model) {
  const facts = [model.example, model.data];
  if (model.headline) {
    const value = model.metrics[model.headline];
    const label = model.headline.replaceAll("_", " ");
    facts.push(`tested: ${label} ${SHARES.test(model.headline) ? percent(value) : number(value)}`);
  }
  return make("header", { className: "head" },
    make("h1", {}, model.task),
    make("p", { className: "quiet" }, facts.filter(Boolean).join(" · ")));
}

function report(model) {
  if (!model.report) return [];
  const address = route(model, "report");
  const frame = make("iframe", { title: "Report of the run", sandbox: "" });
  const fill = async () => {
    if (frame.src || frame.srcdoc) return;
    if (hasToken()) frame.srcdoc = await ask(address, { as: "text" });
    else frame.src = address;
  };
  const summary = make("summary", {}, "How it was trained");
  return [make("details", { className: "report", ontoggle: fill }, summary, frame)];
}

async function begin() {
  const trouble = problem();
  try {
    ({ models } = await ask("/v1/models"));
  } catch (error) {
    trouble.show(error);
    stage.replaceChildren(trouble.element);
    return;
  }
  list.replaceChildren(...models.map((model) => {
    const link = make("a", { href: `#${encodeURIComponent(model.name)}`, title: model.example }, model.name);
    link.dataset.name = model.name;
    return link;
  }));
  list.hidden = models.length < 2;
  addEventListener("hashchange", show);
  await show();
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address says which model is shown
  stage.focus();
});
begin();
