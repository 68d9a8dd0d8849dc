// Marks the chosen cell in figures that are already drawn, and tells which cell was clicked.
//
// Streamlit mounts a figure anew when anything in it changes, and the reader's zoom is gone; so
// what is chosen is no part of a figure but a frame laid over it, which moves with its axes. What
// is said of it is markup made on the server, where all foreign text is escaped.
const running = new WeakMap();

// Each point's (layer, column) is an array or a typed one.
const cells = (plot) => (plot.calcdata || []).flat().filter((point) => point.data?.length === 2);

// A figure that was taken off the page has no layout any more.
function place(plot, mark) {
  const point = mark.cell && cells(plot).find((p) => mark.cell.every((n, i) => n === p.data[i]));
  const { xaxis, yaxis } = plot._fullLayout ?? {};
  if (!point || !xaxis || !yaxis) return null;
  const edges = (axis, at) => {
    const ends = [axis.l2p(at - 0.5), axis.l2p(at + 0.5)].sort((a, b) => a - b);
    const [low, high] = ends.map((end) => Math.min(Math.max(end, 0), axis._length));
    return [axis._offset + low, high - low];
  };
  const [left, width] = edges(xaxis, point.x);
  const [top, height] = edges(yaxis, point.y);
  return width > 1 && height > 1 ? { left, top, width, height } : null;
}

function line(plot, mark) {
  const { xaxis, yaxis } = plot._fullLayout ?? {};
  if (mark.x == null || !xaxis || !yaxis) return null;
  const at = xaxis.l2p(mark.x);
  if (!(at >= 0 && at <= xaxis._length)) return null;
  return { left: xaxis._offset + at, top: yaxis._offset, width: 0, height: yaxis._length };
}

function draw(plot, mark, name = "ob-mark") {
  const box = mark.cell ? place(plot, mark) : line(plot, mark);
  let frame = plot.querySelector(`:scope > .${name}`);
  if (!box) return frame && frame.remove();
  if (!frame) {
    frame = plot.ownerDocument.createElement("div");
    frame.className = name;
    plot.style.position = "relative";
    plot.append(frame);
  }
  frame.classList.toggle("ob-line", !mark.cell);
  for (const [name, value] of Object.entries(box)) frame.style[name] = `${value}px`;
}

// Cells by keyboard: arrows move, Enter chooses, and what hovering tells is shown and read aloud.
function keyboard(plot, chosen, choose) {
  const page = plot.ownerDocument;
  let at = null, tip = null;
  const tell = (point) => {
    // Made by the server with Plotly's few tags; a document of its own runs and loads nothing.
    const said = String(point.tx ?? "").replaceAll("<br>", "\n");
    return new DOMParser().parseFromString(said, "text/html").body.textContent;
  };
  const leave = () => {
    at = null;
    tip?.remove();
    tip = null;
    draw(plot, { cell: null }, "ob-cursor");
  };
  const show = () => {
    draw(plot, { cell: at && [...at.data] }, "ob-cursor");
    const frame = plot.querySelector(":scope > .ob-cursor");
    if (!at || !frame) return leave();
    if (!tip) {
      tip = page.createElement("div");
      tip.className = "ob-tip ob-cell-tip";
      tip.setAttribute("role", "status");
      plot.append(tip);
    }
    tip.textContent = tell(at);
    const right = plot.clientWidth - tip.offsetWidth - 4;
    tip.style.left = `${Math.max(4, Math.min(frame.offsetLeft, right))}px`;
    tip.style.top = `${frame.offsetTop + frame.offsetHeight + 5}px`;
  };
  const steps = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };
  const key = (event) => {
    const all = cells(plot), { xaxis, yaxis } = plot._fullLayout ?? {}, step = steps[event.key];
    if (!all.length || event.target !== plot || event.ctrlKey || event.metaKey || event.altKey) return;
    const here = at ?? all.find((p) => chosen()?.every((n, i) => n === p.data[i]));
    if (step && !here) at = all[0];
    else if (step) {
      const along = (p) => (xaxis.l2p(p.x) - xaxis.l2p(here.x)) * step[0] + (yaxis.l2p(p.y) - yaxis.l2p(here.y)) * step[1];
      const beside = (p) => (step[0] ? p.y === here.y : p.x === here.x);
      const next = all.filter((p) => beside(p) && along(p) > 0.5).sort((a, b) => along(a) - along(b))[0];
      at = next ?? here;
    } else if ((event.key === "Enter" || event.key === " ") && here) choose((at = here));
    else if (event.key === "Escape") return leave();
    else return;
    event.preventDefault();
    show();
  };
  const named = plot.closest("[aria-label]")?.getAttribute("aria-label");
  const attributes = { tabindex: 0, role: "application", "aria-roledescription": "map of cells" };
  attributes["aria-label"] = `${named ?? "Map"}. Arrow keys move from cell to cell, Enter chooses one.`;
  for (const [name, value] of Object.entries(attributes)) plot.setAttribute(name, value);
  plot.addEventListener("keydown", key);
  plot.addEventListener("blur", leave);
  return () => {
    plot.removeEventListener("keydown", key);
    plot.removeEventListener("blur", leave);
    leave();
  };
}

export default function ({ data, parentElement, setStateValue }) {
  running.get(parentElement)?.();
  const page = parentElement.ownerDocument;
  const plots = new Map(), lassoed = new Map();
  let asked = 0;

  const all = (kind) => [...page.querySelectorAll(`[data-${kind}]`)];
  // An answer to a click on a page that was drawn anew meanwhile comes too late.
  const answered = (kind) => all(kind).filter((at) => Number(at.dataset.run) === data?.run);
  for (const place of answered("words")) {
    const said = data.words[place.dataset.words];
    if (said !== undefined && place.innerHTML !== said) place.innerHTML = said;
    place.style.opacity = "";
  }
  for (const holder of answered("figure")) {
    const mark = data.marks[holder.dataset.figure];
    if (mark) holder.dataset.mark = JSON.stringify(mark);
  }

  const follow = (plot, name) => {
    // Looked up each time: a page that is drawn anew brings its own.
    const find = () => page.querySelector(`[data-figure="${CSS.escape(name)}"]`);
    const again = () => {
      const holder = find();
      if (holder) draw(plot, JSON.parse(holder.dataset.mark));
    };
    const clicked = (event) => {
      const cell = Array.from(event.points?.[0]?.customdata ?? [], Number);
      if (cell.length !== 2) return;
      const holder = find();
      if (holder) holder.dataset.mark = JSON.stringify({ cell });
      again();
      for (const place of all("words")) place.style.opacity = "0.55";
      // The time makes a second click on the same cell another one.
      setStateValue("click", { figure: name, cell, at: Date.now() });
    };
    const events = { plotly_afterplot: again, plotly_relayouting: again, plotly_click: clicked };
    for (const [event, act] of Object.entries(events)) plot.on(event, act);
    const mark = () => JSON.parse(find()?.dataset.mark ?? "{}");
    const silence = "cell" in mark()
      ? keyboard(plot, () => mark().cell, (point) => clicked({ points: [{ customdata: point.data }] }))
      : () => {};
    plots.set(plot, () => {
      silence();
      for (const [event, act] of Object.entries(events)) plot.removeListener?.(event, act);
    });
  };

  // Where several points can be taken with a lasso, Streamlit has a click choose none: it does here.
  const choosing = (plot) => {
    const one = (event) => {
      if (plot._fullLayout.dragmode !== "lasso") return;
      const kept = ["x", "y", "curveNumber", "pointNumber", "pointIndex", "customdata"];
      const points = event.points.map((point) => Object.fromEntries(kept.map((name) => [name, point[name]])));
      plot.emit("plotly_selected", { points });
    };
    plot.on("plotly_click", one);
    lassoed.set(plot, () => plot.removeListener?.("plotly_click", one));
  };

  // A figure's menu saves it as it is looked at; the frame of the chosen cell is no part of it.
  const save = (event) => {
    const button = event.target.closest?.("[data-image]");
    if (!button) return;
    const key = CSS.escape(button.dataset.image);
    const shown = [...page.querySelectorAll(`.st-key-${key} .js-plotly-plot`)];
    const plot = shown.find((one) => one.offsetParent && one._context);
    if (!plot) return;
    plot._context.toImageButtonOptions.format = button.dataset.format;
    for (const { name, click } of plot._fullLayout._modeBar.buttons.flat())
      if (name === "toImage") click(plot);
  };
  page.addEventListener("click", save);

  const look = () => {
    asked = 0;
    for (const plot of plots.keys()) if (!plot.isConnected) plots.delete(plot);
    for (const holder of all("figure")) {
      const key = CSS.escape(holder.dataset.figure);
      for (const plot of page.querySelectorAll(`.st-key-${key} .js-plotly-plot`)) {
        if (!plot.on || !plot._fullLayout?.xaxis || !plot.calcdata) continue;
        if (!plots.has(plot)) follow(plot, holder.dataset.figure);
        draw(plot, JSON.parse(holder.dataset.mark));
      }
    }
    for (const plot of lassoed.keys()) if (!plot.isConnected) lassoed.delete(plot);
    for (const plot of page.querySelectorAll(".js-plotly-plot"))
      if (plot.on && plot._fullLayout?.dragmode === "lasso" && !lassoed.has(plot)) choosing(plot);
  };

  const soon = () => (asked ||= requestAnimationFrame(look));
  const observer = new MutationObserver(soon);
  // Marks are moved from elsewhere, too.
  observer.observe(page.body, { childList: true, subtree: true, attributeFilter: ["data-mark"] });
  // Now, not with the next frame: the listeners of the last time are gone, and a click must be heard.
  look();
  const stop = () => {
    observer.disconnect();
    page.removeEventListener("click", save);
    cancelAnimationFrame(asked);
    for (const forget of [...plots.values(), ...lassoed.values()]) forget();
  };
  running.set(parentElement, stop);
  return stop;
}
