// Conversations: say something; the answer appears as it is written, and each piece tells how likely it was.

import { listen } from "../api.js";
import { calm, make, percent, problem } from "../parts.js";
import { grounded } from "../show/continuation.js";

// Each option as a field: its label, the smallest and largest value, and the step between two.
const NUMBERS = {
  max_tokens: ["Tokens at most", 1, 2048, 1],
  temperature: ["Temperature", 0, 2, 0.1],
  top_p: ["Top-p", 0, 1, 0.05],
  repetition_penalty: ["Repeat penalty", 1, 2, 0.05],
};
const NEAR = 80; // pixels of the last answer that may be out of sight, and the page still follows it
const coarse = matchMedia("(pointer: coarse)"); // there Enter is the only way to a new line

export function view(model) {
  const { messages, ...usual } = model.start;
  const suggestion = messages.at(-1).content;
  let turns = []; // {role, content, pieces, note, item}
  let ending = null; // of the answer that is being written

  // --- the parts ---

  const list = make("ol", { className: "turns", "aria-label": "Messages" });
  const opening = make("div", { className: "opening" },
    make("p", { className: "quiet" }, "Say something, or begin with"),
    make("button", { type: "button", className: "suggestion", onclick: () => say(suggestion) }, suggestion));
  const trouble = problem();
  const field = make("textarea", {
    id: "message", rows: 1, placeholder: "Your message", "aria-label": "Your message", autocomplete: "off", oninput: grow, onkeydown: hurry });
  const send = make("button", { type: "submit", className: "main" }, "Send");
  const stop = make("button", { type: "button", className: "main", hidden: true, onclick: () => ending?.abort() }, "Stop");
  const composer = make("form", { className: "composer", onsubmit: submit }, field, send, stop);
  const likely = make("input", { type: "checkbox", onchange: reveal });
  const anew = make("button", { type: "button", className: "ghost", onclick: begin, disabled: true }, make("span", {}, "New", make("span", { className: "wide" }, " conversation")));
  const status = make("p", { className: "quiet", role: "status", "aria-live": "polite" });
  const heard = make("p", { className: "unseen", "aria-live": "polite" }); // whole answers, for those who listen to them
  const system = make("textarea", { id: "system", rows: 3, placeholder: "Nothing", spellcheck: false });
  const inputs = Object.fromEntries(Object.entries(NUMBERS).map(([name, [, min, max, step]]) => [
    name, make("input", { id: name, type: "number", min, max, step, value: usual[name], required: true })]));
  const fields = Object.entries(NUMBERS).map(([name, [label]]) => make("label", { className: "field" }, label, inputs[name]));
  const settings = make("details", { className: "settings", open: matchMedia("(min-width: 821px)").matches },
    make("summary", {}, "How it answers"),
    make("label", { className: "field", htmlFor: "system" }, "What it is told first"), system,
    make("div", { className: "fields" }, ...fields));
  const dock = make("div", { className: "dock" }, composer,
    make("div", { className: "tools" }, status,
      make("label", { className: "check" }, likely, make("span", {}, "How likely", make("span", { className: "wide" }, " each piece was"))), anew));
  const element = make("div", { className: "talk" },
    make("section", { className: "dialogue", "aria-label": "The conversation" },
      opening, list, trouble.element, heard,
      dock),
    make("aside", { "aria-label": "Settings" }, settings));

  // --- a turn ---

  function add(turn) {
    turn.text = make("div", { className: "text" });
    turn.deeds = make("div", { className: "deeds" });
    turn.body = make("div", { className: "body" }, turn.text, turn.deeds);
    const who = make("span", { className: "unseen" }, turn.role === "user" ? "You" : "The model");
    turn.item = make("li", { className: `turn ${turn.role}` }, who, turn.body);
    turns.push(turn);
    list.append(turn.item);
    opening.hidden = true;
    return turn;
  }

  function addUser(content) {
    const turn = add({ role: "user", content });
    turn.text.textContent = content;
    turn.deeds.append(make("button", { type: "button", className: "ghost", onclick: () => edit(turn) }, "Edit"));
  }

  /** The answer, which grows; its pieces can be pointed at, and gone through with the arrow keys. */
  function addAnswer() {
    const turn = add({ role: "assistant", content: "", pieces: [] });
    turn.note = make("span", { className: "note" });
    turn.again = make("button", { type: "button", className: "ghost again", onclick: () => repeat(turn) }, "Again");
    turn.deeds.append(turn.again, turn.note);
    turn.text.classList.add("marked");
    let at = -1;

    function point(number) {
      turn.text.children[at]?.classList.remove("pointed");
      at = Math.max(-1, Math.min(turn.pieces.length - 1, number));
      turn.text.children[at]?.classList.add("pointed");
      const [piece, share] = turn.pieces[at] ?? [];
      status.textContent = piece === undefined ? "" : `“${piece.replaceAll("\n", "↵")}” ${percent(share)}`;
    }

    const pointed = (event) => {
      if (likely.checked && event.target !== turn.text) point([...turn.text.children].indexOf(event.target));
    };
    turn.text.addEventListener("pointerover", pointed);
    turn.text.addEventListener("click", pointed);
    turn.text.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: turn.pieces.length - 1, Escape: -1 };
      if (!likely.checked || !(event.key in moves)) return;
      event.preventDefault();
      point(event.key === "Escape" ? -1 : Math.max(0, moves[event.key]));
    });
    return turn;
  }

  /** With or without the ground of each piece; with it, the answers can be reached by keyboard. */
  function reveal() {
    element.classList.toggle("likely", likely.checked);
    for (const { role, text } of turns) if (role === "assistant") reachable(text);
  }

  function reachable(text) {
    if (likely.checked) Object.assign(text, { tabIndex: 0, role: "group", ariaLabel: "The arrow keys go through the pieces" });
    else for (const name of ["tabindex", "role", "aria-label"]) text.removeAttribute(name);
  }

  // --- what can be done ---

  function submit(event) {
    event.preventDefault();
    const content = field.value.trim();
    if (!content || ending) return;
    field.value = "";
    grow();
    say(content);
  }

  function say(content) {
    if (ending || !valid()) return;
    addUser(content);
    answer();
  }

  function repeat(turn) {
    if (ending || !valid()) return;
    cut(turns.indexOf(turn));
    answer();
  }

  /** The message as a field; sent again, it takes the place of itself and of all that came after it. */
  function edit(turn) {
    if (ending) return;
    const changed = make("textarea", { value: turn.content, rows: Math.min(8, turn.content.split("\n").length + 1), "aria-label": "Your message, changed" });
    const form = make("form", { className: "edit", onsubmit: (event) => {
      event.preventDefault();
      const content = changed.value.trim();
      if (!content || ending || !valid()) return;
      cut(turns.indexOf(turn));
      say(content);
    } },
    changed,
    make("div", { className: "tools" },
      make("button", { type: "submit", className: "main" }, "Send"),
      make("button", { type: "button", onclick: close }, "Cancel")));
    changed.addEventListener("keydown", (event) => {
      if (event.key === "Escape") close();
      else if (enters(event)) form.requestSubmit();
    });
    function close() {
      form.replaceWith(turn.body);
      turn.deeds.querySelector("button").focus();
    }
    turn.body.replaceWith(form);
    changed.focus();
    changed.setSelectionRange(changed.value.length, changed.value.length);
  }

  /** Forgets the turns from a number on. */
  function cut(number) {
    for (const { item } of turns.splice(number)) item.remove();
  }

  function begin() {
    ending?.abort();
    cut(0);
    trouble.clear();
    status.textContent = "";
    opening.hidden = false;
    anew.disabled = true;
    field.focus();
  }

  async function answer() {
    const asked = [
      ...(system.value.trim() ? [{ role: "system", content: system.value.trim() }] : []),
      ...turns.map(({ role, content }) => ({ role, content }))];
    const mine = addAnswer();
    const options = Object.fromEntries(Object.entries(inputs).map(([name, input]) => [name, Number(input.value)]));
    const body = { model: model.name, messages: asked, ...options, logprobs: true, stream: true, stream_options: { include_usage: true } };
    ending = new AbortController();
    const { signal } = ending;
    trouble.clear();
    writing(true, mine);
    follow("smooth");
    const began = performance.now();
    let finish = "";
    let failure = null;
    try {
      await listen("/v1/chat/completions", body, ({ choices, usage }) => {
        for (const { delta, logprobs, finish_reason: why } of choices) {
          const near = hidden() < NEAR;
          mine.content += delta.content ?? "";
          for (const { token, logprob } of logprobs?.content ?? []) {
            mine.pieces.push([token, Math.exp(logprob)]);
            mine.text.append(grounded([token, Math.exp(logprob)], ""));
          }
          finish = why ?? finish;
          if (near) follow();
        }
        if (usage) mine.note.textContent = counted(usage.completion_tokens, performance.now() - began, finish);
      }, signal);
    } catch (error) {
      if (error.name === "AbortError") mine.note.textContent = "stopped";
      else failure = error;
    }
    ending = null;
    if (!turns.includes(mine)) return writing(false); // meanwhile a new conversation has begun
    const near = hidden() < NEAR;
    writing(false, mine);
    if (near) follow();
    if (failure) fail(failure, mine);
    else {
      heard.textContent = mine.content;
      reachable(mine.text);
    }
  }

  /** A message that got no answer is in the field again, to be put right. */
  function fail(error, mine) {
    trouble.show(error);
    if (mine.content) return;
    const { content } = turns.at(-2);
    cut(turns.length - 2);
    if (!field.value) field.value = content;
    grow();
    opening.hidden = turns.length > 0;
    field.focus();
  }

  function counted(tokens, milliseconds, finish) {
    const speed = `${tokens} ${tokens === 1 ? "token" : "tokens"}, ${Math.round(1000 * tokens / milliseconds)} a second`;
    return finish === "length" ? `${speed}; cut off here` : speed;
  }

  function writing(on, turn = null) {
    status.textContent = on ? "Writing …" : "";
    const here = document.activeElement === (on ? send : stop);
    [send.hidden, stop.hidden] = [on, !on];
    if (here) (on ? stop : field).focus();
    element.classList.toggle("busy", on);
    turn?.item.classList.toggle("growing", on);
    anew.disabled = turns.length === 0;
  }

  // --- small things ---

  const valid = () => {
    const wrong = Object.values(inputs).find((input) => !input.checkValidity());
    if (wrong) {
      settings.open = true;
      wrong.reportValidity();
    }
    return !wrong;
  };

  /** Pixels of the last turn that the dock hides. */
  const hidden = () => list.getBoundingClientRect().bottom - dock.getBoundingClientRect().top;

  function follow(behavior = "instant") {
    const top = hidden();
    if (top > 0) scrollBy({ top, behavior: calm() ? "instant" : behavior });
  }

  function grow() {
    field.style.height = "auto";
    field.style.height = `${Math.min(field.scrollHeight + 2, 200)}px`;
  }

  const enters = (event) => event.key === "Enter" && !event.shiftKey && !event.isComposing && (!coarse.matches || event.ctrlKey || event.metaKey);

  function hurry(event) {
    if (!enters(event)) return;
    event.preventDefault();
    composer.requestSubmit();
  }

  return { element, start: () => { grow(); if (!coarse.matches) field.focus({ preventScroll: true }); }, stop: () => ending?.abort() };
}
