// The page: the conversation, and who calls whom.

import { Lost, Refusal, chat, models, setKey } from "./api.js";
import { AnswerView } from "./answer.js";
import { prepareCode, showCode } from "./code_dialog.js";
import { byId, el, whenQuiet } from "./dom.js";
import { History } from "./history.js";
import { WrongField, bodyOf, streamed } from "./request.js";
import { SchemaEditor } from "./schema.js";
import { modeNow, prepareSettings, readSettings, writeSettings } from "./settings.js";
import { keep, kept } from "./store.js";

let messages = []; // of the finished turns, as the API has them
let running = null; // the AbortController of the answer that is being made

const narrow = matchMedia("(max-width: 820px)"); // as in style.css
const prompt = byId("prompt");
const turns = byId("turns");
const schema = new SchemaEditor(byId("schema"), byId("verdict"));
const history = new History(({ prompt: text, settings }) => {
  writeSettings(settings);
  prompt.value = text;
  if (settings.mode === "schema") schema.check();
  prompt.focus();
});

function notice(text) {
  byId("notice").textContent = text;
  byId("notice").hidden = !text;
}

function show(element) {
  turns.append(element);
  turns.scrollTop = turns.scrollHeight;
  if (narrow.matches) element.scrollIntoView({ block: "start" }); // there the page scrolls, not the turns
}

function setRunning(controller) {
  running = controller;
  byId("send").disabled = controller !== null;
  byId("stop").hidden = controller === null;
  byId("status").textContent = controller ? "answering" : "";
}

// The body of the next request, or null after telling which field is wrong.
function bodyFor(settings, conversation) {
  notice("");
  try {
    return bodyOf(settings, byId("model").value, conversation);
  } catch (error) {
    if (!(error instanceof WrongField)) throw error;
    notice(error.message);
    byId(error.field).focus();
    return null;
  }
}

function ask() {
  const text = prompt.value.trim();
  if (!text || running) return;
  const settings = readSettings();
  const asked = [{ role: "user", content: text }];
  const body = bodyFor(settings, [...messages, ...asked]);
  if (!body) return;
  history.add(text, settings);
  show(el("article", { class: "turn question" }, el("h2", {}, "You"), el("div", { class: "text" }, text)));
  // Without earlier turns one tries the same prompt again and again.
  if (settings.earlier) prompt.value = "";
  else prompt.select();
  // What was not answered is no part of the conversation, and can be sent again.
  answer(body, asked, settings, () => { prompt.value ||= text; });
}

async function answer(body, asked, settings, onFailure) {
  const traced = body.structured_outputs?.trace === true;
  const view = new AnswerView({ json: settings.mode === "schema", traced, onCopy: () => showCode(body) });
  show(view.element);
  const controller = new AbortController();
  setRunning(controller);
  try {
    for await (const chunk of chat(streamed(body), controller.signal)) {
      const atEnd = turns.scrollHeight - turns.scrollTop - turns.clientHeight < 80;
      view.feed(chunk);
      if (atEnd) turns.scrollTop = turns.scrollHeight;
    }
    messages.push(...asked, view.message);
    view.end("done");
    setRunning(null);
    if (view.calls.calls.length) askResults(view, settings);
  } catch (error) {
    view.fail(inWords(error, view));
    setRunning(null);
    onFailure();
  }
  turns.scrollTop = turns.scrollHeight;
}

function askResults(view, settings) {
  view.calls.askResults((results, onFailure) => {
    const body = running ? null : bodyFor(settings, [...messages, ...results]);
    if (body) answer(body, results, settings, onFailure);
    else onFailure();
  });
}

function inWords(error, view) {
  if (error.name === "AbortError") return "Stopped. This turn is not kept.";
  if (error instanceof Lost) {
    return view.first === null ? error.message
      : `${error.message} What came before, ${view.numTokens} tokens, is above; it is not the whole answer.`;
  }
  if (!(error instanceof Refusal)) {
    console.error(error);
    return `The page failed: ${error.message}`;
  }
  if (error.status === 401) byId("key").focus();
  return `${error.message}${error.param ? ` (${error.param})` : ""}`;
}

async function listModels() {
  const select = byId("model");
  const before = select.value || kept("model", "");
  try {
    const cards = await models();
    // An adapter stands below the model that it adapts.
    select.replaceChildren(...cards.map((card) =>
      el("option", { value: card.id }, card.parent ? `${card.id} (adapter)` : card.id)));
    if (cards.some((card) => card.id === before)) select.value = before;
    notice("");
    if (modeNow() === "schema") schema.check();
  } catch (error) {
    if (error instanceof Refusal && error.status === 401) {
      notice("This server wants an API key: give it above. It is kept in this browser.");
      byId("key").focus();
    } else {
      notice(error.message);
    }
  }
}

const THEMES = ["system", "light", "dark"];

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  byId("theme").textContent = `Theme: ${theme}`;
  keep("theme", theme);
}

function prepare() {
  prepareSettings((mode) => { if (mode === "schema") schema.check(); });
  prepareCode();
  setTheme(kept("theme", "system"));
  byId("theme").addEventListener("click", () => {
    const now = document.documentElement.dataset.theme;
    setTheme(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
  });
  byId("key").value = String(kept("key", ""));
  setKey(byId("key").value);
  const tryKey = whenQuiet(listModels, 400);
  byId("key").addEventListener("input", () => {
    setKey(byId("key").value);
    keep("key", byId("key").value);
    tryKey();
  });
  byId("model").addEventListener("change", () => keep("model", byId("model").value));
  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
  prompt.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    ask();
  });
  byId("stop").addEventListener("click", () => running?.abort());
  byId("fresh").addEventListener("click", () => {
    running?.abort();
    messages = [];
    turns.replaceChildren();
    notice("");
    prompt.focus();
  });
  byId("copy-request").addEventListener("click", () => {
    const text = prompt.value.trim();
    const conversation = text || !messages.length ? [...messages, { role: "user", content: text }] : messages;
    const body = bodyFor(readSettings(), conversation);
    if (body) showCode(body);
  });
  listModels();
}

prepare();
