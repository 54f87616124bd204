// A request as code that does the same without this page. Keys stay out of it.

export const LANGUAGES = { curl, Python: python, TypeScript: typescript };

const KEY = "FORMGATE_API_KEY";
// Arguments of OpenAI's Python client; others go into `extra_body`.
const OPENAI = new Set([
  "model", "messages", "temperature", "top_p", "max_tokens", "seed", "presence_penalty",
  "frequency_penalty", "stop", "tools", "tool_choice", "parallel_tool_calls", "response_format",
]);

// Without what only this page needs.
function plain(body) {
  const { stream, stream_options, structured_outputs: constraint, ...rest } = body;
  const { trace, ...kept } = constraint ?? {};
  return Object.keys(kept).length ? { ...rest, structured_outputs: kept } : rest;
}

function curl(body, base, keyed) {
  const data = JSON.stringify(plain(body), null, 2).replaceAll("'", "'\\''");
  const key = keyed ? ` \\\n  -H "Authorization: Bearer $${KEY}"` : "";
  return `curl -s ${base}/chat/completions${key} \\\n  -H 'Content-Type: application/json' -d '${data}'\n`;
}

export function pythonLiteral(value, indent = "") {
  const inner = `${indent}    `;
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const items = Array.isArray(value)
    ? value.map((item) => inner + pythonLiteral(item, inner))
    : Object.entries(value).map(([name, item]) => `${inner}${JSON.stringify(name)}: ${pythonLiteral(item, inner)}`);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  return items.length ? `${open}\n${items.join(",\n")},\n${indent}${close}` : open + close;
}

function python(body, base, keyed) {
  const known = [], extra = {};
  for (const [name, value] of Object.entries(plain(body))) {
    if (OPENAI.has(name)) known.push([name, value]);
    else extra[name] = value;
  }
  if (Object.keys(extra).length) known.push(["extra_body", extra]);
  const list = known.map(([name, value]) => `    ${name}=${pythonLiteral(value, "    ")},`).join("\n");
  const key = keyed ? `os.environ["${KEY}"]` : '"none"';
  return `${keyed ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url=${JSON.stringify(base)}, api_key=${key})
completion = client.chat.completions.create(
${list}
)
message = completion.choices[0].message
print(message.${body.tools ? "tool_calls or message.content" : "content"})
`;
}

function typescript(body, base, keyed) {
  const key = keyed ? `process.env.${KEY}` : '"none"';
  return `import OpenAI from "openai";

const client = new OpenAI({ baseURL: ${JSON.stringify(base)}, apiKey: ${key} });
const completion = await client.chat.completions.create(
  ${JSON.stringify(plain(body), null, 2).replaceAll("\n", "\n  ")} as OpenAI.ChatCompletionCreateParamsNonStreaming,
);
const message = completion.choices[0].message;
console.log(${body.tools ? "message.tool_calls ?? message.content" : "message.content"});
`;
}
