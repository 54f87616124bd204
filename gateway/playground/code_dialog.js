// The dialog that shows a request as code, in a language to choose.

import { address, hasKey } from "./api.js";
import { byId, el } from "./dom.js";
import { LANGUAGES } from "./snippets.js";

let language = "curl";

export function showCode(body) {
  const area = byId("code-text");
  const write = () => {
    area.value = LANGUAGES[language](body, address("v1"), hasKey());
    byId("code-state").textContent = "";
    byId("languages").replaceChildren(...Object.keys(LANGUAGES).map((name) => el("button", {
      type: "button", "aria-pressed": String(name === language),
      onclick: () => {
        language = name;
        write();
      },
    }, name)));
  };
  write();
  byId("code").showModal();
}

export function prepareCode() {
  byId("code-close").addEventListener("click", () => byId("code").close());
  byId("code-copy").addEventListener("click", async () => {
    const area = byId("code-text");
    let copied = true;
    try {
      await navigator.clipboard.writeText(area.value);
    } catch { // plain http to another host has no clipboard
      area.select();
      copied = document.execCommand("copy");
    }
    byId("code-state").textContent = copied ? "Copied." : "Press Ctrl+C.";
  });
}
