// Circuits side by side: filtered, searched, grouped, zoomed and walked through with the keyboard.
//
// What is drawn comes from the server (`app/panels/circuit_graph.py`); text is set as text, never as
// markup. The server is asked only when a node is opened.
const SVG = "http://www.w3.org/2000/svg";
const kept = new WeakMap(); // by parent: what the reader has set, so that it outlives a new drawing

function make(name, attributes = {}, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function tag(name, attributes = {}, text) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// Heads of one layer at one position as one node, and what they read and write as one edge.
function grouped(graph) {
  const groups = new Map();
  const of = graph.nodes.map((node, i) => {
    const key = node.kind === "head" ? `heads ${node.layer} ${node.position}` : `node ${i}`;
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(node);
    return [...groups.keys()].indexOf(key);
  });
  const nodes = [...groups.values()].map((some) =>
    some.length === 1
      ? some[0]
      : {
          ...some[0],
          name: `${some.length} heads of block ${some[0].layer}`,
          label: `${some.length}h`,
          several: some.map((node) => node.name),
          x: some.reduce((sum, node) => sum + node.x, 0) / some.length,
        },
  );
  const together = new Map();
  for (const edge of graph.edges) {
    const key = `${of[edge.from]} ${of[edge.to]}`;
    if (!together.has(key)) together.set(key, []);
    together.get(key).push(edge);
  }
  const edges = [...together.entries()].map(([key, some]) => {
    const [from, to] = key.split(" ").map(Number);
    const words = some.length === 1 ? some[0].words : [`${some.length} edges`, ...some.slice(0, 4).map((one) => one.words.slice(0, 2).join(": "))];
    return { ...some[0], from, to, words, points: line(nodes[from], nodes[to]) };
  });
  return { ...graph, nodes, edges };
}

// As a file of its own: what stands in the style sheet is written into each element.
function download(one, graph, kind) {
  const copy = one.svg.cloneNode(true);
  const pairs = [[one.svg, copy], ...[...one.svg.querySelectorAll("*")].map((at, i) => [at, copy.querySelectorAll("*")[i]])];
  for (const [from, to] of pairs) {
    const look = getComputedStyle(from);
    for (const name of ["fill", "stroke", "stroke-width", "opacity", "font-family", "font-size", "text-anchor", "dominant-baseline", "display"])
      to.style.setProperty(name, look.getPropertyValue(name));
  }
  copy.setAttribute("xmlns", SVG);
  copy.setAttribute("viewBox", `0 0 ${graph.width} ${graph.height}`);
  copy.setAttribute("width", graph.width);
  copy.setAttribute("height", graph.height);
  // What it lies on, too: on grey there is no effect to divide.
  const look = getComputedStyle(one.svg);
  for (const fill of [look.backgroundColor, look.getPropertyValue("--st-background-color").trim() || "#fff"])
    copy.prepend(make("rect", { width: graph.width, height: graph.height, fill }));
  const save = (file) => {
    const link = tag("a", { href: URL.createObjectURL(file), download: `circuit-${graph.way}.${kind}` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  const file = new Blob([new XMLSerializer().serializeToString(copy)], { type: "image/svg+xml" });
  if (kind === "svg") return save(file);
  const image = new Image(), scale = 2; // as pictures of the other figures
  image.onload = () => {
    const canvas = tag("canvas", { width: graph.width * scale, height: graph.height * scale });
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    URL.revokeObjectURL(image.src);
    canvas.toBlob(save, "image/png");
  };
  image.src = URL.createObjectURL(file);
}

function line(a, b) {
  const bend = 0.35 * (a.y - b.y);
  const points = [];
  for (let i = 0; i <= 8; i++) {
    const t = i / 8, s = 1 - t;
    const mix = (p, q, r, u) => s ** 3 * p + 3 * s * s * t * q + 3 * s * t * t * r + t ** 3 * u;
    points.push([mix(a.x, a.x, b.x, b.x), mix(a.y, a.y - bend, b.y + bend, b.y)]);
  }
  return points;
}

const path = (points) => `M${points.map((point) => point.map((n) => n.toFixed(1)).join(",")).join("L")}`;

// Nodes from which one can be reached by the edges, and those that it reaches.
function connected(edges, start) {
  const found = new Set([start]);
  for (const [a, b] of [["from", "to"], ["to", "from"]]) {
    const todo = [start], seen = new Set(todo);
    while (todo.length) {
      const here = todo.pop();
      for (const edge of edges)
        if (edge[a] === here && !seen.has(edge[b])) { seen.add(edge[b]); todo.push(edge[b]); }
    }
    for (const node of seen) found.add(node);
  }
  return found;
}

export default function ({ data, parentElement, setStateValue, setTriggerValue }) {
  const at = data.filters ?? {};
  const settings = kept.get(parentElement) ?? {
    strongest: at["circuit-strongest"] || Infinity, search: at.find ?? "", views: {},
    chosen: Object.fromEntries((at.chosen ?? []).map((one) => [one.way, `${one.node} ${one.position}`])),
    pinned: Object.fromEntries((at.pinned ?? []).map((one) => [`${one.way} ${one.node} ${one.position}`, one])),
    paths: at["circuit-paths"] === "through", group: at["circuit-heads"] === "grouped",
  };
  kept.set(parentElement, settings);
  settings.server = { setStateValue, setTriggerValue };
  const root = parentElement.querySelector(".circuits");
  // Each answer of the server comes through here. What shows the same stays as it is, with the focus
  // in it: a press on what is exchanged under the pointer is lost.
  const drawing = JSON.stringify([data.graphs, data.marks]);
  if (settings.root === root && settings.drawing === drawing && root.hasChildNodes()) return;
  Object.assign(settings, { root, drawing });
  // Into the link: once a filter is left where it is, not at each step on the way.
  const tell = () => settings.server.setStateValue("filters", {
    "circuit-strongest": Number.isFinite(settings.strongest) ? settings.strongest : 0,
    "circuit-paths": settings.paths ? "through" : "all",
    "circuit-heads": settings.group ? "grouped" : "apart",
    find: settings.search,
    pinned: Object.values(settings.pinned),
  });
  root.replaceChildren();
  const told = tag("div", { class: "told", role: "status", "aria-live": "polite" });
  const bar = tag("div", { class: "bar" });
  const ways = tag("div", { class: "ways" });
  const most = Math.max(1, ...data.graphs.flatMap((graph) => graph.edges.map((edge) => edge.rank + 1)));
  const drawn = [];

  const label = (text, input) => { const made = tag("label", {}, text); made.append(input); return made; };
  const slider = tag("input", { type: "range", min: 1, max: most, value: Math.min(most, settings.strongest), "aria-label": "How many of the strongest edges are shown" });
  const count = tag("span", { "aria-hidden": "true" });
  slider.addEventListener("input", () => { settings.strongest = Number(slider.value) >= most ? Infinity : Number(slider.value); show(); });
  slider.addEventListener("change", tell);
  const search = tag("input", { type: "search", placeholder: "a1.h3 or a word", value: settings.search, maxlength: 200, "aria-label": "Find nodes" });
  search.addEventListener("input", () => { settings.search = search.value.trim(); show(); });
  search.addEventListener("change", tell);
  const toggle = (text, name, redraw) => {
    const button = tag("button", { type: "button", "aria-pressed": settings[name] }, text);
    button.addEventListener("click", () => { settings[name] = !settings[name]; button.setAttribute("aria-pressed", settings[name]); redraw(); tell(); });
    return button;
  };
  const fit = tag("button", { type: "button" }, "Fit");
  fit.addEventListener("click", () => { settings.views = {}; for (const one of drawn) one.view(); });
  const nearer = tag("button", { type: "button", "aria-label": "Zoom in" }, "+");
  nearer.addEventListener("click", () => { for (const one of drawn) one.zoom(1 / 1.3); });
  const farther = tag("button", { type: "button", "aria-label": "Zoom out" }, "−");
  farther.addEventListener("click", () => { for (const one of drawn) one.zoom(1.3); });
  const strongest = label("Strongest edges", slider);
  strongest.append(count);
  bar.append(strongest, label("Find", search), toggle("Paths through chosen", "paths", () => show()), toggle("Group heads", "group", () => build()), nearer, farther, fit);
  root.append(bar, ways, told, tag("div", { class: "legend" }, "Green supports the answer, purple opposes it; dashed: queries, dotted: keys. Arrows walk from node to node, Enter opens one, P pins it, Esc closes. Ctrl and the wheel zoom, dragging moves."));

  function build() {
    ways.replaceChildren();
    drawn.length = 0;
    for (const graph of data.graphs) {
      const part = tag("section", { class: "way", "aria-label": graph.title });
      const heading = tag("h3", {}, graph.title);
      heading.style.borderColor = graph.colour;
      const holder = tag("div", { class: "holder" });
      part.append(heading, holder);
      ways.append(part);
      const one = draw(settings.group ? grouped(graph) : graph, holder);
      drawn.push(one);
      if (graph.wrong) part.append(tag("p", { class: "wrong" }, graph.wrong));
      else {
        for (const kind of ["svg", "png"]) {
          const save = tag("button", { type: "button", class: "save" }, `Save as ${kind.toUpperCase()}`);
          save.addEventListener("click", () => download(one, graph, kind));
          part.append(save);
        }
      }
    }
    show();
  }

  function draw(graph, holder) {
    const svg = make("svg", { role: "group", "aria-label": `Circuit, ${graph.title}` });
    if (graph.grey) svg.classList.add("grey");
    holder.append(svg);
    const one = { graph, svg, nodes: [], edges: [] };
    const box = () => settings.views[graph.way] ?? [0, 0, graph.width, graph.height];
    one.view = () => svg.setAttribute("viewBox", box().join(" "));
    one.zoom = (factor, at = [0.5, 0.5]) => {
      const [x, y, w, h] = box();
      const width = Math.min(graph.width * 1.5, Math.max(60, w * factor)), height = (h * width) / w;
      settings.views[graph.way] = [x + (w - width) * at[0], y + (h - height) * at[1], width, height];
      one.view();
    };
    svg.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      const r = svg.getBoundingClientRect();
      one.zoom(event.deltaY < 0 ? 1 / 1.15 : 1.15, [(event.clientX - r.x) / r.width, (event.clientY - r.y) / r.height]);
    }, { passive: false });
    let from = null;
    svg.addEventListener("pointerdown", (event) => { if (!event.target.closest(".node")) from = [event.clientX, event.clientY, ...box()]; });
    svg.addEventListener("pointermove", (event) => {
      if (!from) return;
      const r = svg.getBoundingClientRect(), [x, y, left, top, w, h] = from;
      settings.views[graph.way] = [left - ((event.clientX - x) * w) / r.width, top - ((event.clientY - y) * h) / r.height, w, h];
      one.view();
    });
    for (const end of ["pointerup", "pointerleave"]) svg.addEventListener(end, () => { from = null; });

    graph.rows.forEach((row, i) => {
      if (i % 2) svg.append(make("rect", { class: "row", x: 0, width: graph.width, y: row.top, height: Math.max(0, row.bottom - row.top) }));
      svg.append(make("text", { x: 6, y: (row.top + row.bottom) / 2 + 4 }, row.label));
    });
    const marked = data.marks[graph.way];
    if (marked) {
      const row = graph.rows.find((each) => each.label === `block ${marked.layer}`);
      const column = graph.columns.find((each) => each.place === marked.label);
      if (row && column) svg.append(make("rect", { class: "mark", x: column.x - 18, width: 36, y: row.top, height: row.bottom - row.top }));
    }
    for (const column of graph.columns) {
      const text = make("text", { transform: `translate(${column.x},${graph.floor + 12}) rotate(28)` }, column.label);
      svg.append(text);
    }
    graph.reason.forEach((text, i) => {
      svg.append(make("text", { class: "reason", x: 6, y: graph.height - 6 - 15 * (graph.reason.length - 1 - i) }, text));
    });
    const dashes = { q: "6 4", k: "1.5 4" };
    for (let i = graph.edges.length - 1; i >= 0; i--) {
      const edge = graph.edges[i];
      const d = path(edge.points);
      const shown = make("path", { class: "edge", d, stroke: edge.colour, "stroke-width": edge.width, "stroke-opacity": edge.opacity, "stroke-linecap": "round" });
      if (dashes[edge.reader]) shown.setAttribute("stroke-dasharray", dashes[edge.reader]);
      const hit = make("path", { class: "hit", d });
      hit.append(make("title", {}, edge.words.join("\n")));
      hit.addEventListener("pointerenter", () => { told.textContent = edge.words.join(", "); });
      svg.append(shown, hit);
      one.edges[i] = [shown, hit];
    }
    graph.nodes.forEach((node, i) => {
      const group = make("g", { class: "node", tabindex: i ? -1 : 0, role: "button", "aria-label": `${node.name}${node.where ? ` at ${node.where}` : ""}`, transform: `translate(${node.x},${node.y})`, "data-node": node.name, "data-position": node.position });
      const shapes = { head: ["circle", { r: 12.5 }], mlp: ["rect", { x: -12.5, y: -12.5, width: 25, height: 25, rx: 2 }], outer: ["rect", { x: -7, y: -7, width: 14, height: 14, transform: "rotate(45)" }] };
      const [shape, size] = shapes[node.kind];
      group.append(make(shape, { class: "shape", ...size }), make("text", { class: "label" }, node.label), make("title", {}, said(graph, i).join("\n")));
      group.addEventListener("click", () => choose(one, i, true));
      group.addEventListener("focus", () => choose(one, i, false));
      group.addEventListener("keydown", (event) => key(event, one, i));
      svg.append(group);
      one.nodes[i] = group;
    });
    one.view();
    return one;
  }

  function said(graph, i) {
    const node = graph.nodes[i];
    const lines = [`${node.name}${node.where ? ` at ${node.where}` : ""}`];
    for (const [word, end, other] of [["in", "to", "from"], ["out", "from", "to"]]) {
      const some = graph.edges.filter((edge) => edge[end] === i);
      if (!some.length) continue;
      lines.push(`${some.length} edge${some.length > 1 ? "s" : ""} ${word}: ${some.slice(0, 4).map((edge) => `${graph.nodes[edge[other]].name} ${edge.words[1] ?? ""}`).join("; ")}${some.length > 4 ? " …" : ""}`);
    }
    return lines;
  }

  function choose(one, i, open) {
    const node = one.graph.nodes[i];
    settings.chosen = { [one.graph.way]: `${node.name} ${node.position}` };
    told.textContent = said(one.graph, i).join("\n");
    show();
    if (open && node.kind !== "outer") settings.server.setTriggerValue("opened", { way: one.graph.way, node: node.several ? node.several[0] : node.name, position: node.position });
  }

  // Of several heads that are drawn as one, all are pinned together.
  function isPinned(graph, node) {
    return (node.several ?? [node.name]).every((name) => `${graph.way} ${name} ${node.position}` in settings.pinned);
  }

  function key(event, one, i) {
    const here = one.graph.nodes[i];
    const steps = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };
    if (steps[event.key]) {
      const [dx, dy] = steps[event.key];
      let best = -1, least = Infinity;
      one.graph.nodes.forEach((node, k) => {
        const x = node.x - here.x, y = node.y - here.y, along = x * dx + y * dy, aside = Math.abs(x * dy) + Math.abs(y * dx);
        if (k === i || along <= 1 || one.nodes[k].classList.contains("dim")) return;
        if (along + 2 * aside < least) { least = along + 2 * aside; best = k; }
      });
      if (best >= 0) { one.nodes[i].setAttribute("tabindex", -1); one.nodes[best].setAttribute("tabindex", 0); one.nodes[best].focus(); }
    } else if (event.key === "Enter" || event.key === " ") choose(one, i, true);
    else if (event.key === "p" || event.key === "P") {
      const off = isPinned(one.graph, here);
      for (const node of here.several ?? [here.name]) {
        const name = `${one.graph.way} ${node} ${here.position}`;
        if (off) delete settings.pinned[name];
        else settings.pinned[name] = { way: one.graph.way, node, position: here.position };
      }
      show();
      tell();
    } else if (event.key === "Escape") { settings.chosen = {}; told.textContent = ""; show(); settings.server.setTriggerValue("opened", null); }
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  function show() {
    count.textContent = ` ${Math.min(most, settings.strongest)} of ${most}`;
    for (const one of drawn) {
      const { graph } = one;
      const chosen = graph.nodes.findIndex((node) => settings.chosen[graph.way] === `${node.name} ${node.position}`);
      const pinned = new Set(graph.nodes.flatMap((node, i) => (isPinned(graph, node) ? [i] : [])));
      const strong = graph.edges.filter((edge) => edge.rank < settings.strongest || pinned.has(edge.from) || pinned.has(edge.to));
      const through = settings.paths && chosen >= 0 ? connected(strong, chosen) : null;
      const visible = new Set(strong.filter((edge) => !through || (through.has(edge.from) && through.has(edge.to))));
      const used = new Set([...visible].flatMap((edge) => [edge.from, edge.to]));
      const near = new Set(chosen < 0 ? [] : [...visible].filter((edge) => edge.from === chosen || edge.to === chosen));
      graph.edges.forEach((edge, i) => {
        for (const part of one.edges[i]) part.style.display = visible.has(edge) ? "" : "none";
        one.edges[i][0].classList.toggle("dim", chosen >= 0 && !settings.paths && !near.has(edge));
      });
      graph.nodes.forEach((node, i) => {
        const classes = one.nodes[i].classList;
        const found = settings.search && `${node.name} ${node.where} ${(node.several ?? []).join(" ")}`.toLowerCase().includes(settings.search.toLowerCase());
        classes.toggle("found", Boolean(found));
        classes.toggle("dim", !used.has(i) && i !== chosen);
        classes.toggle("chosen", i === chosen);
        classes.toggle("pinned", pinned.has(i));
      });
    }
  }

  build();
}
