// A JSON text that is still being written, as a tree with positions. Each node:
// {kind, pointer, start, end, done, value | members}, where members are {name, start, node}; `end` is
// exclusive, `done` says that nothing can follow within it. JSON.parse wants a whole text.

const SPACE = /[ \t\n\r]/;
const SCALAR = /[-+.0-9a-zA-Z]/;
const MOST_DEPTH = 250;

// Parses as far as the text is JSON: {node, end}. `node` is null before the first character.
export function parseGrowing(text) {
  const reader = { text, at: 0 };
  skip(reader);
  const node = readValue(reader, "", 0);
  return { node, end: reader.at };
}

export function pointerTo(parent, name) {
  return `${parent}/${String(name).replaceAll("~", "~0").replaceAll("/", "~1")}`;
}

// The node at a JSON Pointer, or the member's name that leads to it: {start, end}, or null.
export function placeOf(node, pointer) {
  if (node === null) return null;
  if (node.pointer === pointer) return { start: node.start, end: node.end };
  for (const { name, start, node: child } of node.members ?? []) {
    const path = pointerTo(node.pointer, name);
    if (path === pointer) return { start, end: child ? child.end : start };
    if (child && pointer.startsWith(`${path}/`)) return placeOf(child, pointer);
  }
  return null;
}

function skip(reader) {
  while (reader.at < reader.text.length && SPACE.test(reader.text[reader.at])) reader.at++;
}

function readValue(reader, pointer, depth) {
  const first = reader.text[reader.at];
  if (first === undefined || depth > MOST_DEPTH) return null;
  if (first === "{") return readObject(reader, pointer, depth);
  if (first === "[") return readArray(reader, pointer, depth);
  if (first === '"') return { kind: "string", pointer, ...readString(reader) };
  return readScalar(reader, pointer);
}

function readScalar(reader, pointer) {
  const start = reader.at;
  while (reader.at < reader.text.length && SCALAR.test(reader.text[reader.at])) reader.at++;
  if (reader.at === start) return null;
  const value = reader.text.slice(start, reader.at);
  const kind = /[-0-9]/.test(value[0]) ? "number" : "literal";
  const done = kind === "literal" ? ["true", "false", "null"].includes(value)
    : reader.at < reader.text.length;
  return { kind, pointer, start, end: reader.at, done, value };
}

function readString(reader) {
  const start = reader.at++;
  while (reader.at < reader.text.length && reader.text[reader.at] !== '"') {
    reader.at += reader.text[reader.at] === "\\" ? 2 : 1;
  }
  const done = reader.at < reader.text.length;
  reader.at = Math.min(reader.at + (done ? 1 : 0), reader.text.length);
  const raw = reader.text.slice(start + 1, done ? reader.at - 1 : reader.at);
  return { start, end: reader.at, done, value: unescaped(raw) };
}

function unescaped(raw) {
  const whole = raw.replace(/\\(u[0-9a-fA-F]{0,3})?$/, (found, _, at) =>
    /(^|[^\\])(\\\\)*$/.test(raw.slice(0, at)) ? "" : found);
  try {
    return JSON.parse(`"${whole}"`);
  } catch {
    return raw;
  }
}

function readArray(reader, pointer, depth) {
  const node = { kind: "array", pointer, start: reader.at++, end: 0, done: false, members: [] };
  for (let index = 0; ; index++) {
    skip(reader);
    if (closed(reader, node, "]")) return node;
    const start = reader.at;
    const child = readValue(reader, pointerTo(pointer, index), depth + 1);
    if (child) node.members.push({ name: index, start, node: child });
    if (!child || !comma(reader)) break;
  }
  return finished(reader, node, "]");
}

function readObject(reader, pointer, depth) {
  const node = { kind: "object", pointer, start: reader.at++, end: 0, done: false, members: [] };
  for (;;) {
    skip(reader);
    if (closed(reader, node, "}")) return node;
    if (reader.text[reader.at] !== '"') break;
    const name = readString(reader);
    const member = { name: name.value, start: name.start, node: null };
    if (!name.done) break; // half a name is none
    node.members.push(member);
    skip(reader);
    if (reader.text[reader.at] !== ":") break;
    reader.at++;
    skip(reader);
    member.node = readValue(reader, pointerTo(pointer, name.value), depth + 1);
    if (!member.node || !comma(reader)) break;
  }
  return finished(reader, node, "}");
}

function comma(reader) {
  skip(reader);
  if (reader.text[reader.at] !== ",") return false;
  reader.at++;
  return true;
}

function closed(reader, node, bracket) {
  if (reader.text[reader.at] !== bracket) return false;
  node.end = ++reader.at;
  node.done = true;
  return true;
}

function finished(reader, node, bracket) {
  skip(reader);
  if (!closed(reader, node, bracket)) node.end = reader.at;
  return node;
}
