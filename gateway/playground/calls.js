// Tool calls as cards: the name, the arguments as a tree, and a field for the tool's result.

import { el } from "./dom.js";
import { TreeView } from "./tree.js";

export class CallCards {
  constructor() {
    this.calls = []; // as the API has them: {id, type, function: {name, arguments}}
    this.cards = [];
    this.element = el("div", { class: "calls" });
  }

  // One delta of `tool_calls`: a call's id and name come once, its arguments in pieces.
  feed({ index, id, type, function: made }) {
    if (!this.calls[index]) {
      this.calls[index] = { id, type: type ?? "function", function: { name: "", arguments: "" } };
      this.open(index);
    }
    const call = this.calls[index];
    const card = this.cards[index];
    call.function.name += made?.name ?? "";
    call.function.arguments += made?.arguments ?? "";
    card.name.textContent = call.function.name;
    card.tree.set(call.function.arguments);
  }

  open(index) {
    const name = el("strong", {});
    const tree = new TreeView();
    const element = el("section", { class: "card", "aria-label": `Call ${index + 1}` },
      el("h3", {}, "calls ", name), tree.element);
    this.cards[index] = { name, tree, element, result: null };
    this.element.append(element);
  }

  // Fields for the results; `onResults(messages)` gets them as the tools' messages.
  askResults(onResults) {
    for (const [index, card] of this.cards.entries()) {
      card.result = el("textarea", {
        rows: 2, class: "code", spellcheck: "false", placeholder: '{"temperature": 21}',
        "aria-label": `Result of call ${index + 1}`,
      });
      card.element.append(el("label", {}, "The tool's result", card.result));
    }
    const send = el("button", { type: "button", class: "main" }, "Send the results");
    send.addEventListener("click", () => {
      send.disabled = true;
      for (const card of this.cards) card.result.readOnly = true;
      onResults(this.calls.map((call, index) => ({
        role: "tool", tool_call_id: call.id, content: this.cards[index].result.value,
      })), () => {
        send.disabled = false;
        for (const card of this.cards) card.result.readOnly = false;
      });
    });
    this.element.append(send);
    this.cards[0].result.focus();
  }
}
