// The server's endpoints, as the page calls them: the same that every client calls.

// A refusal of the server: its status, and OpenAI's error object.
export class Refusal extends Error {
  constructor(status, error) {
    super(error.message || `The server answered ${status}.`);
    this.status = status;
    this.param = error.param ?? null;
    this.code = error.code ?? null;
  }
}

// The connection ended before the answer did.
export class Lost extends Error {}

// Addresses are relative to the page, `/` or `/playground`, so that a proxy's prefix holds.
export const address = (path) => new URL(path, document.baseURI).href;

let key = "";
export const setKey = (text) => { key = text.trim(); };
export const hasKey = () => key !== "";

async function call(path, body, signal) {
  const headers = {};
  // A header holds Latin-1 only; a key of another script goes as its UTF-8 bytes.
  if (key) headers.Authorization = `Bearer ${String.fromCharCode(...new TextEncoder().encode(key))}`;
  const options = { headers, signal };
  if (body !== undefined) {
    headers["Content-Type"] = "application/json";
    Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  }
  let response;
  try {
    response = await fetch(address(path), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Lost("The server does not answer.");
  }
  if (!response.ok) {
    const answer = await response.json().catch(() => ({}));
    throw new Refusal(response.status, answer.error ?? {});
  }
  return response;
}

export async function models() {
  return (await (await call("v1/models")).json()).data;
}

export async function checkSchema(schema, signal) {
  return (await call("v1/schema/check", { schema }, signal)).json();
}

// The chunks of a streamed chat completion. Throws Refusal, also for an error within the stream,
// and Lost if the stream ends without its last event.
export async function* chat(body, signal) {
  const response = await call("v1/chat/completions", body, signal);
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Refusal(chunk.error.code ?? 500, chunk.error);
    yield chunk;
  }
  throw new Lost("The connection was lost.");
}

// The data of server-sent events, each of which this server writes on one line.
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Lost("The connection was lost.");
    }
    if (part.done) return;
    const lines = (rest + part.value).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line.startsWith("data: ")) yield line.slice(6);
  }
}
