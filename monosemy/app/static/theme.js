"use strict";
// Before the first paint: the reader's own choice of light or dark, where one was made.
try {
  const saved = localStorage.getItem("theme");
  if (saved) document.documentElement.dataset.theme = saved;
} catch {
  // A browser that keeps nothing for this page follows the system's choice.
}
