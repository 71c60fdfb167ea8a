// A share of dashes and the sound of it.

import { make } from "../parts.js";

export function show() {
  const share = make("p", { role: "status" });
  const player = make("audio", { controls: true });
  return {
    head: share,
    body: player,
    show(row) {
      share.textContent = `${(100 * row.dashes).toFixed(0)} % dashes`;
      player.src = `data:audio/wav;base64,${row.wav}`;
    },
    clear() {
      share.textContent = "";
      player.removeAttribute("src");
    },
  };
}
