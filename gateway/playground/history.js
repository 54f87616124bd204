// The last requests, kept in this browser only.

import { byId, el } from "./dom.js";
import { keep, kept } from "./store.js";

const MODES = ["text", "schema", "tools", "regex", "grammar"];
const MOST = 20;
const MOST_CHARS = 20_000; // of one entry

export class History {
  // `onChoose({prompt, settings})`: the reader wants a request again.
  constructor(onChoose) {
    this.onChoose = onChoose;
    // Another version of the page may have kept something else.
    const found = kept("history", []);
    this.entries = (Array.isArray(found) ? found : []).filter(({ prompt, settings }) =>
      typeof prompt === "string" && MODES.includes(settings?.mode));
    byId("forget").addEventListener("click", () => {
      this.entries = [];
      this.save();
    });
    this.show();
  }

  add(prompt, settings) {
    const entry = { time: Date.now(), prompt, settings };
    const text = JSON.stringify([prompt, settings]);
    if (text.length > MOST_CHARS) return;
    const others = this.entries.filter((old) => JSON.stringify([old.prompt, old.settings]) !== text);
    this.entries = [entry, ...others].slice(0, MOST);
    this.save();
  }

  save() {
    keep("history", this.entries);
    this.show();
  }

  show() {
    byId("history").replaceChildren(...this.entries.map((entry) => el("li", {}, el("button", {
      type: "button", onclick: () => this.onChoose(entry),
    }, el("b", {}, entry.settings.mode), " ", entry.prompt.slice(0, 80),
    el("time", {}, new Date(entry.time).toLocaleString())))));
  }
}
