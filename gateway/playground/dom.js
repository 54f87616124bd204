// Elements from names, attributes and texts. A text only ever becomes a text node, never markup.

export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const byId = (id) => document.getElementById(id);

// Calls `draw` at most once a frame, however often it is asked to.
export function oncePerFrame(draw) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      draw();
    });
  };
}

// Calls `act` once nobody has asked for `delay` milliseconds.
export function whenQuiet(act, delay) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(act, delay);
  };
}

export function percent(share) {
  const space = "\u00a0";
  if (share > 0 && share < 0.001) return `<${space}0.1${space}%`;
  return `${(share * 100).toFixed(share > 0 && share < 0.1 ? 1 : 0)}${space}%`;
}
