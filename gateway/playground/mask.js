// The live mask: one span a token, coloured by the share of the model's own choice that the mask took
// away. A token is looked at by pointing, or with the arrow keys.

import { el, percent } from "./dom.js";

export const STRONGEST = 0.75; // opacity of a token of which the mask took away everything

// Opacity is linear in `masked`, so that a colour can be read back as its number.
export function colourOf(entry) {
  return `rgba(225, 87, 40, ${(entry.masked * STRONGEST).toFixed(4)})`;
}

function shown(token) {
  if (token.startsWith("bytes:")) return `⟨${token.slice(6).replaceAll("\\x", "")}⟩`;
  return token === "" ? "∅" : token;
}

export class MaskView {
  // `onPoint(pointer)`: the value that the reader looks at, or null.
  constructor(onPoint) {
    this.entries = [];
    this.onPoint = onPoint;
    this.at = -1;
    this.number = MaskView.count = (MaskView.count ?? 0) + 1;
    this.tokens = el("div", {
      class: "tokens", role: "listbox", tabindex: 0, "aria-label": "Tokens, by what the mask took away",
      onmouseover: (event) => this.look(this.indexOf(event.target)),
      onfocus: () => this.look(this.at < 0 ? 0 : this.at),
      onclick: (event) => this.look(this.indexOf(event.target)),
      onkeydown: (event) => this.press(event),
    });
    this.facts = el("p", { class: "facts", "aria-live": "polite" }, "Point at a token, or use ← →.");
    const scale = el("span", { class: "scale", "aria-hidden": "true" });
    const legend = el("p", { class: "legend" },
      "the mask took away 0 % ", scale, " 100 %   ", el("span", { class: "forced" }, "forced"),
      ": one token was left");
    this.element = el("div", { class: "mask", hidden: true }, this.tokens, this.facts, legend);
  }

  add(entries) {
    const spans = entries.map((entry, offset) => {
      const index = this.entries.length + offset;
      const span = el("span", {
        class: entry.forced ? "token forced" : "token", role: "option", "data-index": index,
        id: `token-${this.number}-${index}`, "aria-selected": "false",
      }, shown(entry.token));
      span.style.backgroundColor = colourOf(entry);
      return span;
    });
    this.entries.push(...entries);
    this.element.hidden = this.entries.length === 0;
    this.tokens.append(...spans);
  }

  indexOf(target) {
    return target.dataset?.index === undefined ? -1 : Number(target.dataset.index);
  }

  look(index) {
    const entry = this.entries[index];
    if (!entry) return;
    this.tokens.children[this.at]?.setAttribute("aria-selected", "false");
    this.at = index;
    const span = this.tokens.children[index];
    span.setAttribute("aria-selected", "true");
    this.tokens.setAttribute("aria-activedescendant", span.id);
    const place = entry.pointer === null ? "" : entry.pointer === "" ? "at the root" : `at ${entry.pointer}`;
    const left = entry.forced ? "forced: 1 token left"
      : `${entry.allowed.toLocaleString("en")} tokens allowed`;
    this.facts.replaceChildren(
      el("code", {}, JSON.stringify(entry.token)), " ", place && el("code", { class: "place" }, place),
      ` · ${left} · the mask took away ${percent(entry.masked)}`);
    this.onPoint(entry.pointer);
  }

  press(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -this.entries.length, End: this.entries.length }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    this.look(Math.max(0, Math.min(this.entries.length - 1, this.at + step)));
  }

  get forcedShare() {
    return this.entries.filter((entry) => entry.forced).length / (this.entries.length || 1);
  }

  // The token at which the schema and the model disagree most.
  get hardest() {
    return this.entries.reduce((most, entry) => (most && most.masked >= entry.masked ? most : entry), null);
  }
}
