// The fields beside the conversation, read and written as one value.

import { byId, el, whenQuiet } from "./dom.js";
import { GRAMMAR, PROMPTS, REGEX, SCHEMA, TOOLS } from "./examples.js";
import { SAMPLING, namesOf } from "./request.js";

const TEXTS = { schema: "schema", tools: "tools", regex: "regex", grammar: "grammar", system: "system",
  reasoning: "reasoning", toolChoice: "tool-choice" };
const SWITCHES = { trace: "trace", earlier: "earlier", parallel: "parallel" };
const CHOICES = { auto: "the model decides", required: "at least one call", none: "no call" };

export const modeNow = () => document.querySelector("input[name=mode]:checked").value;

export function readSettings() {
  const settings = { mode: modeNow(), sampling: {} };
  for (const [name, id] of Object.entries(TEXTS)) settings[name] = byId(id).value;
  for (const [name, id] of Object.entries(SWITCHES)) settings[name] = byId(id).checked;
  for (const { name } of SAMPLING) {
    const number = byId(`s-${name}`).valueAsNumber;
    if (Number.isFinite(number)) settings.sampling[name] = number;
  }
  const stop = byId("s-stop").value.split("\n").filter((line) => line);
  if (stop.length) settings.sampling.stop = stop;
  return settings;
}

export function writeSettings(settings) {
  document.querySelector(`input[name=mode][value="${CSS.escape(settings.mode)}"]`).checked = true;
  byId("tools").value = settings.tools;
  listChoices();
  for (const [name, id] of Object.entries(TEXTS)) byId(id).value = settings[name] ?? "";
  for (const [name, id] of Object.entries(SWITCHES)) byId(id).checked = settings[name] === true;
  for (const { name } of SAMPLING) byId(`s-${name}`).value = settings.sampling?.[name] ?? "";
  byId("s-stop").value = (settings.sampling?.stop ?? []).join("\n");
  showMode();
}

// Makes the fields, fills in the examples, and calls `onMode` when another mode is chosen.
export function prepareSettings(onMode) {
  byId("sampling").append(...SAMPLING.map(({ name, least, most, step }) =>
    el("label", { class: "number" }, name, el("input", {
      id: `s-${name}`, type: "number", min: least, max: most, step, inputmode: "decimal",
    }))), el("label", { class: "wide" }, "stop, one a line", el("textarea", { id: "s-stop", rows: 2 })));
  byId("s-max_tokens").value = 512;
  byId("s-temperature").value = 0; // the same request shows the same mask
  const examples = { schema: SCHEMA, tools: TOOLS, regex: REGEX, grammar: GRAMMAR };
  for (const [id, text] of Object.entries(examples)) byId(id).value = text;
  byId("prompt").value = PROMPTS.text;
  listChoices();
  byId("tools").addEventListener("input", whenQuiet(listChoices, 200));
  for (const radio of document.querySelectorAll("input[name=mode]")) {
    radio.addEventListener("change", () => {
      // One prompt after another is the rule with a schema, a conversation without.
      byId("earlier").checked = ["text", "tools"].includes(radio.value);
      const prompt = byId("prompt");
      if (!prompt.value || Object.values(PROMPTS).includes(prompt.value)) prompt.value = PROMPTS[radio.value];
      showMode();
      onMode(radio.value);
    });
  }
  byId("earlier").checked = true;
  showMode();
}

function showMode() {
  const mode = modeNow();
  for (const section of document.querySelectorAll("[data-mode]")) section.hidden = section.dataset.mode !== mode;
  byId("trace-line").hidden = mode === "text";
}

// The choices of a tool: the names that the editor holds are among them.
function listChoices() {
  const state = byId("tools-state");
  const before = byId("tool-choice").value || "auto";
  let names = [];
  try {
    names = namesOf(JSON.parse(byId("tools").value));
    state.textContent = `${names.length} tool${names.length === 1 ? "" : "s"}: ${names.join(", ")}`;
    state.classList.remove("wrong");
  } catch (error) {
    state.textContent = error instanceof SyntaxError ? `Not JSON: ${error.message}` : error.message;
    state.classList.add("wrong");
  }
  const options = [...Object.entries(CHOICES), ...names.map((name) => [`=${name}`, `${name}()`])];
  byId("tool-choice").replaceChildren(...options.map(([value, text]) => el("option", { value }, text)));
  byId("tool-choice").value = options.some(([value]) => value === before) ? before : "auto";
}
