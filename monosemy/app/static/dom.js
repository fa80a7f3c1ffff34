// Building nodes and writing numbers. Text reaches the page through textContent alone.

export const byId = (id) => document.getElementById(id);

export function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

export const whole = (value) => value.toLocaleString("en");

export function short(value) { // four significant digits
  if (value === null || value === undefined) return "";
  const size = Math.abs(value);
  if (value === 0 || (size >= 0.001 && size < 1e5)) return String(Number(value.toPrecision(4)));
  return value.toExponential(2);
}

export function digits(value, count) { // ending zeros kept, so that numbers below one another compare
  const size = Math.abs(value);
  return size >= 0.01 && size < 1000 ? value.toPrecision(count) : short(value);
}

export const dataOf = (id) => JSON.parse(byId(id).textContent);
