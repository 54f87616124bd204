// One answer while it is made: reasoning, text, mask, tree, calls, and its times.

import { CallCards } from "./calls.js";
import { el, percent } from "./dom.js";
import { MaskView } from "./mask.js";
import { TreeView } from "./tree.js";

const WORTH_A_WORD = 0.05; // share that the mask took away

export class AnswerView {
  // `json`: the content is one JSON text. `traced`: the server tells what the mask does.
  constructor({ json, traced, onCopy }) {
    this.began = performance.now();
    this.first = this.last = null;
    this.chunks = 0;
    this.content = this.reasoning = "";
    this.finish = this.usage = null;
    this.thoughts = el("pre", { class: "thoughts" });
    this.thinking = el("details", { class: "reasoning", open: true, hidden: true },
      el("summary", {}, "Reasoning"), this.thoughts);
    this.text = el("div", { class: "text", hidden: true });
    this.tree = json ? new TreeView() : null;
    this.mask = traced ? new MaskView((pointer) => this.tree?.point(pointer)) : null;
    this.calls = new CallCards();
    this.note = el("p", { class: "note", role: "alert", hidden: true });
    this.times = el("dl", { class: "times" });
    const copy = el("button", { type: "button", class: "small", onclick: onCopy }, "Copy as code");
    this.element = el("article", { class: "turn answer", "data-state": "running" },
      el("h2", {}, "Answer"), this.thinking, this.text,
      el("div", { class: "panes" }, this.mask?.element, this.tree?.element),
      this.calls.element, this.note, el("footer", {}, this.times, copy));
  }

  // One chunk of the stream.
  feed(chunk) {
    if (chunk.usage) this.usage = chunk.usage;
    const choice = chunk.choices[0];
    if (!choice) return;
    const { delta, trace } = choice;
    const thought = delta.reasoning_content ?? delta.reasoning ?? "";
    if (thought || delta.content || delta.tool_calls) this.arrived();
    if (thought) {
      this.reasoning += thought;
      this.thinking.hidden = false;
      this.thoughts.append(thought);
    }
    if (delta.content) this.addText(delta.content);
    for (const call of delta.tool_calls ?? []) this.calls.feed(call);
    if (trace) this.mask?.add(trace);
    if (choice.finish_reason) this.finish = choice.finish_reason;
    this.showTimes();
  }

  addText(text) {
    this.content += text;
    // The mask shows the same text, token by token.
    this.text.hidden = this.mask !== null && this.tree !== null;
    this.text.append(text);
    this.tree?.set(this.content);
  }

  arrived() {
    this.last = performance.now();
    this.first ??= this.last;
    this.chunks += 1;
  }

  get numTokens() {
    return this.usage?.completion_tokens ?? Math.max(this.chunks, this.mask?.entries.length ?? 0);
  }

  showTimes() {
    const facts = [];
    if (this.first !== null) {
      facts.push(["first token", `${Math.round(this.first - this.began)} ms`]);
      const seconds = (this.last - this.first) / 1000;
      if (seconds > 0) facts.push(["speed", `${((this.numTokens - 1) / seconds).toFixed(0)} tokens/s`]);
      facts.push(["tokens", String(this.numTokens)]);
    }
    if (this.mask?.entries.length) {
      facts.push(["forced", percent(this.mask.forcedShare)]);
      const { token, masked } = this.mask.hardest;
      if (masked > WORTH_A_WORD) facts.push(["most against the model", `${token.trim()} ${percent(masked)}`]);
    }
    const cached = this.usage?.prompt_tokens_details?.cached_tokens;
    if (this.usage) facts.push(["prompt", `${this.usage.prompt_tokens} tokens, ${cached ?? 0} cached`]);
    if (this.finish) facts.push(["ended by", this.finish]);
    this.times.replaceChildren(...facts.map(([name, value]) =>
      el("div", { "data-fact": name }, el("dt", {}, name), el("dd", {}, value))));
  }

  // The message to send with the next turn.
  get message() {
    const message = { role: "assistant", content: this.content || null };
    if (this.calls.calls.length) message.tool_calls = this.calls.calls;
    return message;
  }

  end(state) {
    this.element.dataset.state = state;
    if (this.content || this.calls.calls.length) this.thinking.open = false;
    this.showTimes();
  }

  fail(text) {
    this.note.textContent = text;
    this.note.hidden = false;
    this.end("failed");
  }
}
