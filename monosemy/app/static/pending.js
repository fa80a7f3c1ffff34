// A page that waits for a job: asks for it, shows its progress, and loads the page again when the result is there.

import { byId, dataOf } from "./dom.js";
import { follow } from "./live.js";
import { panelFor } from "./panel.js";

const place = byId("pending");
if (place) {
  const { analysis, label, values } = dataOf("pending-data");
  const panel = panelFor({ label }, location.href);
  place.append(panel.root);
  panel.watch(follow(analysis, values, { ...panel, done() { location.reload(); } }));
}
