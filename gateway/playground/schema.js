// The verdict on a schema while it is typed: each keyword and how it is enforced, or the refusal.

import { checkSchema } from "./api.js";
import { el, whenQuiet } from "./dom.js";
import { parseGrowing, placeOf } from "./json_text.js";

const QUIET = 250; // milliseconds
const HOW = { mask: "by the mask", rewrite: "rewritten", guard: "by a guard" };

export class SchemaEditor {
  constructor(editor, verdict) {
    this.editor = editor;
    this.verdict = verdict;
    this.asked = null;
    this.soon = whenQuiet(() => this.check(), QUIET);
    editor.addEventListener("input", () => {
      verdict.dataset.state = "stale";
      this.soon();
    });
  }

  async check() {
    this.asked?.abort();
    const asked = this.asked = new AbortController();
    let schema;
    try {
      schema = JSON.parse(this.editor.value);
    } catch (error) {
      this.show("wrong", el("p", { class: "wrong" }, `Not JSON: ${error.message}`));
      return;
    }
    try {
      const report = await checkSchema(schema, asked.signal);
      if (asked === this.asked) this.report(report);
    } catch (error) {
      if (error.name !== "AbortError") this.show("wrong", el("p", { class: "wrong" }, error.message));
    }
  }

  show(state, ...children) {
    this.verdict.dataset.state = state;
    this.editor.setAttribute("aria-invalid", String(state !== "supported"));
    this.verdict.replaceChildren(...children);
  }

  report({ supported, keywords, refused, shortest }) {
    const parts = [];
    if (supported) {
      const counts = Object.entries(HOW).map(([how, words]) =>
        [keywords.filter((keyword) => keyword.how === how).length, words]);
      const list = counts.filter(([number]) => number).map(([number, words]) => `${number} ${words}`);
      parts.push(el("p", { class: "right" }, `Enforced in full: ${list.join(", ") || "nothing to enforce"}.`));
    } else {
      parts.push(el("p", { class: "wrong" }, refused.message),
        this.row({ ...refused, how: "refused", note: refused.code }));
    }
    if (shortest) {
      parts.push(el("p", { class: "hint" }, `An instance, the shortest (${shortest.tokens} tokens):`),
        el("pre", { class: "instance" }, shortest.text));
    }
    const others = keywords.filter(({ pointer }) => pointer !== refused?.pointer);
    if (others.length) {
      parts.push(el("details", { open: true }, el("summary", {}, `${others.length} keywords`),
        ...others.map((keyword) => this.row(keyword))));
    }
    this.show(supported ? "supported" : "refused", ...parts);
  }

  row({ pointer, how, note }) {
    return el("button", {
      type: "button", class: `keyword ${how}`, title: "Show it in the schema", onclick: () => this.find(pointer),
    }, el("b", {}, HOW[how] ?? how), " ", el("code", {}, pointer || "/"), " ", el("span", {}, note ?? ""));
  }

  // Selects the keyword in the editor.
  find(pointer) {
    const place = placeOf(parseGrowing(this.editor.value).node, pointer);
    if (!place) return;
    const before = this.editor.value.slice(0, place.start).split("\n").length;
    this.editor.focus();
    this.editor.setSelectionRange(place.start, place.end);
    const line = parseFloat(getComputedStyle(this.editor).lineHeight) || 18;
    this.editor.scrollTop = Math.max(0, (before - 3) * line);
  }
}
