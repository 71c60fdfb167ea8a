// Requests to this server, with the token where it asks for one.

let token = sessionStorage.getItem("token") ?? "";
let entering = null;

export const JSON_TYPE = "application/json";

export const route = (model, rest) => `/v1/models/${encodeURIComponent(model.name)}/${rest}`;

/** The answer to a request; an Error with the server's own words, and its `status`, where there is none. */
export async function ask(path, { body, type = JSON_TYPE, method = body === undefined ? "GET" : "POST", as = "json", keepalive = false } = {}) {
  const headers = body === undefined ? {} : { "Content-Type": type };
  if (token) headers.Authorization = `Bearer ${token}`;
  let answer;
  try {
    answer = await fetch(path, { method, headers, body, keepalive });
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  if (answer.status === 401) {
    await enter();
    return ask(path, { body, type, method, as, keepalive });
  }
  if (!answer.ok) {
    const said = await answer.json().catch(() => ({}));
    throw Object.assign(new Error(said.error ?? `The server answered ${answer.status}.`), { status: answer.status });
  }
  return answer[as]();
}

/** Calls `take` with each event of a stream, as JSON, until it ends or `signal` ends it. */
export async function listen(path, body, take, signal) {
  const headers = { "Content-Type": JSON_TYPE };
  if (token) headers.Authorization = `Bearer ${token}`;
  const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error?.message ?? `The server answered ${answer.status}.`);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n\n");
    rest = lines.pop();
    for (const line of lines.map((line) => line.replace("data: ", ""))) {
      if (line === "[DONE]") return;
      const event = JSON.parse(line);
      if (event.error) throw new Error(event.error.message);
      take(event);
    }
  }
}

export const hasToken = () => token !== "";

/** Asks for the token, once however many requests wait for it. */
function enter() {
  entering ??= new Promise((resolve) => {
    const gate = document.getElementById("gate");
    const field = document.getElementById("token");
    const form = gate.querySelector("form");
    document.getElementById("refused").hidden = token === "";
    gate.oncancel = (event) => event.preventDefault();
    form.onsubmit = () => {
      token = field.value.trim();
      sessionStorage.setItem("token", token);
      field.value = "";
      entering = null;
      resolve();
    };
    gate.showModal();
  });
  return entering;
}

/** A function that runs `work` now or, while it runs, once more afterwards: only the newest question counts. */
export function newest(work, fail) {
  let running = false;
  let again = false;
  return async function start() {
    if (running) {
      again = true;
      return;
    }
    running = true;
    try {
      await work();
    } catch (error) {
      fail(error);
    } finally {
      running = false;
      if (again) {
        again = false;
        start();
      }
    }
  };
}
