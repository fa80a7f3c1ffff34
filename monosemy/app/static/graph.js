// A feature between its parents and its children, as a drawing: a node a feature, two lines a connection, one as wide
// as the part that was predicted (none where nothing was), one as wide as the part that was measured. Both are totals,
// mean × tokens: a large effect on one token is a small one beside a small effect on hundreds.

const WIDTH = 860, NODE = 200, HEIGHT = 24, ROW = 32, EDGE = 7, THINNEST = 0.5;
const MOST = 30; // a side; the tables have all

function svg(name, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

// `middle` and each of `parents` and `children`: {label, said, href}; those besides are edges, with `how`.
export function graphOf(middle, parents, children) {
  const sides = [parents.slice(0, MOST), children.slice(0, MOST)];
  const height = ROW * Math.max(1, ...sides.map((side) => side.length));
  const left = sides[0].length ? 0 : (WIDTH - NODE) / 2, right = sides[1].length ? WIDTH : (WIDTH + NODE) / 2; // an empty side is cut off
  const root = svg("svg", { class: "circuit", role: "group", viewBox: `${left} 0 ${right - left} ${height}`, width: right - left, height,
    "aria-label": "Parents on the left, children on the right; the tables below say the same" });
  const centre = height / 2;
  const nodes = [];
  sides.forEach((side, which) => {
    const most = Math.max(...side.flatMap((each) => [Math.abs(each.attribution), Math.abs(each.ablation)].map((mean) => mean * each.firings)), 0) || 1;
    side.forEach((each, place) => {
      const y = centre + (place - (side.length - 1) / 2) * ROW;
      const [x1, x2] = which ? [WIDTH / 2 + NODE / 2, WIDTH - NODE] : [NODE, WIDTH / 2 - NODE / 2];
      const [y1, y2] = which ? [centre, y] : [y, centre];
      const edge = svg("g", { class: each.how === "unclear" ? "unclear" : "" });
      if (each.attribution !== null) edge.append(line(x1, y1 - 3, x2, y2 - 3, (each.attribution * each.firings) / most, "predicted"));
      edge.append(line(x1, y1 + 3, x2, y2 + 3, (each.ablation * each.firings) / most, "measured"));
      root.append(edge);
      nodes.push(node(each, which ? WIDTH - NODE : 0, y));
    });
  });
  root.append(...nodes, node(middle, WIDTH / 2 - NODE / 2, centre, "middle"));
  return root;
}

function line(x1, y1, x2, y2, share, kind) {
  const bend = (x2 - x1) / 2;
  return svg("path", { class: share < 0 ? `${kind} lowers` : kind, "stroke-width": Math.max(THINNEST, EDGE * Math.abs(share)).toFixed(2),
    d: `M${x1} ${y1} C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}` });
}

function node({ label, said, href }, x, y, kind = "") {
  const box = svg("rect", { x, y: y - HEIGHT / 2, width: NODE, height: HEIGHT, rx: 3 });
  const text = svg("text", { x: x + 8, y: y + 4 }, label.length > 28 ? `${label.slice(0, 27)}…` : label);
  return svg("a", { href, class: kind, "aria-label": said }, svg("title", {}, said), box, text);
}
