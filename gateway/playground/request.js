// The body of a request, from the page's settings. Nothing here touches the page.

export const SAMPLING = [
  { name: "temperature", least: 0, most: 2, step: 0.1 },
  { name: "top_p", least: 0, most: 1, step: 0.05 },
  { name: "top_k", least: -1, step: 1 },
  { name: "min_p", least: 0, most: 1, step: 0.05 },
  { name: "max_tokens", least: 1, step: 1 },
  { name: "seed", step: 1 },
  { name: "presence_penalty", least: -2, most: 2, step: 0.1 },
  { name: "frequency_penalty", least: -2, most: 2, step: 0.1 },
  { name: "repetition_penalty", least: 0, most: 2, step: 0.05 },
];

// A field of the page that is not what it must be.
export class WrongField extends Error {
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}

export function parsed(field, text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new WrongField(field, `Not JSON: ${error.message}`);
  }
}

export function namesOf(tools) {
  if (!Array.isArray(tools)) throw new WrongField("tools", "The tools must be a JSON array.");
  return tools.map((tool) => tool?.function?.name).filter((name) => typeof name === "string");
}

// The messages to send: those from the last one of the user on, or all, after the system prompt.
export function messagesOf(settings, messages) {
  const last = messages.findLastIndex((message) => message.role === "user");
  const sent = settings.earlier ? messages : messages.slice(Math.max(0, last));
  const system = settings.system.trim() ? [{ role: "system", content: settings.system }] : [];
  return [...system, ...sent];
}

export function bodyOf(settings, model, messages) {
  const body = { model, messages: messagesOf(settings, messages), ...constraintOf(settings) };
  for (const [name, value] of Object.entries(settings.sampling)) body[name] = value;
  if (settings.reasoning) {
    body.chat_template_kwargs = { enable_thinking: settings.reasoning === "on" };
  }
  return body;
}

function constraintOf(settings) {
  const extra = settings.trace ? { trace: true } : {};
  switch (settings.mode) {
    case "schema": {
      const schema = parsed("schema", settings.schema);
      const format = { type: "json_schema", json_schema: { name: "answer", schema } };
      return { response_format: format, ...(settings.trace && { structured_outputs: extra }) };
    }
    case "regex":
    case "grammar":
      if (!settings[settings.mode]) throw new WrongField(settings.mode, "This field is empty.");
      return { structured_outputs: { [settings.mode]: settings[settings.mode], ...extra } };
    case "tools":
      return toolsOf(settings, extra);
    default:
      return {};
  }
}

function toolsOf(settings, extra) {
  const tools = parsed("tools", settings.tools);
  const names = namesOf(tools);
  if (!names.length) return {};
  const choice = settings.toolChoice;
  const named = choice.startsWith("=");
  const body = {
    tools,
    tool_choice: named ? { type: "function", function: { name: choice.slice(1) } } : choice,
    parallel_tool_calls: settings.parallel,
  };
  // Without a call there is no constraint, and so nothing to trace.
  if (settings.trace && choice !== "none") body.structured_outputs = extra;
  return body;
}

export function streamed(body) {
  return { ...body, stream: true, stream_options: { include_usage: true } };
}
