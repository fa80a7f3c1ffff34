// What the live lab and the review pages share: requests, and words for what came back.

import { short, whole } from "./dom.js";

// A value for reading: a number with four significant digits, nothing as a dash.
export function said(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  return Number.isInteger(value) ? whole(value) : short(value);
}

// POST as JSON. Gives the answer's JSON; {unreachable: true} where there is none.
export async function post(address, data) {
  try {
    const answer = await fetch(address, {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(data),
    });
    const text = await answer.text();
    try {
      return JSON.parse(text);
    } catch { // said by what stands before the app
      return { error: text.trim() || `The server answered ${answer.status}.` };
    }
  } catch {
    return { unreachable: true };
  }
}

// Words in a live region, changed at most every two seconds: a screen reader says each change.
export function report(place, words) {
  const now = performance.now();
  if (now - Number(place.dataset.told ?? -Infinity) < 2000) return;
  place.dataset.told = String(now);
  place.textContent = words;
}
