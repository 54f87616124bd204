// A JSON text as a tree that grows with it.

import { el, oncePerFrame } from "./dom.js";
import { parseGrowing } from "./json_text.js";

const MOST_NODES = 3000; // a page draws no more at once

export class TreeView {
  constructor() {
    this.element = el("div", { class: "tree", "aria-label": "The value" });
    this.text = "";
    this.folded = new Set();
    this.pointed = null;
    this.ask = oncePerFrame(() => this.draw());
  }

  set(text) {
    this.text = text;
    this.ask();
  }

  // Marks the value at `pointer`.
  point(pointer) {
    this.pointed = pointer;
    for (const node of this.element.querySelectorAll("[data-pointer]")) {
      node.classList.toggle("pointed", node.dataset.pointer === pointer);
    }
  }

  draw() {
    const { node } = parseGrowing(this.text);
    this.left = MOST_NODES;
    this.element.replaceChildren(node ? this.show(node, null) : "…");
    this.point(this.pointed);
  }

  show(node, name) {
    const label = name === null ? [] : [el("span", { class: "name" }, String(name)), ": "];
    if (node === null) return el("div", { class: "leaf" }, ...label, "…");
    if (--this.left < 0) return el("div", { class: "leaf" }, "… (more)");
    if (!node.members) {
      const text = node.kind === "string" ? JSON.stringify(node.value) : node.value;
      const value = el("span", { class: node.done ? node.kind : `${node.kind} growing` }, text);
      return el("div", { class: "leaf", "data-pointer": node.pointer }, ...label, value);
    }
    const [open, close] = node.kind === "object" ? "{}" : "[]";
    const more = node.done ? close : "…";
    const summary = el("summary", { "data-pointer": node.pointer }, ...label,
      el("span", { class: "count" }, `${open} ${node.members.length} ${more}`));
    const details = el("details", { open: !this.folded.has(node.pointer) }, summary,
      ...node.members.map((member) => this.show(member.node, member.name)));
    details.addEventListener("toggle", () => {
      this.folded[details.open ? "delete" : "add"](node.pointer);
    });
    return details;
  }
}
