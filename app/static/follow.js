// Marks the chosen cell in figures that are already drawn, and tells which cell was clicked.
//
// Streamlit mounts a figure anew when anything in it changes, and the reader's zoom is gone; so
// what is chosen is no part of a figure but a frame laid over it, which moves with its axes. What
// is said of it is markup made on the server, where all foreign text is escaped.
const running = new WeakMap();

function place(plot, mark) {
  // Each point's (layer, column), as an array or as a typed one.
  const points = (plot.calcdata || []).flat().filter((point) => point.data?.length === 2);
  const point = mark.cell && points.find((p) => mark.cell.every((n, i) => n === p.data[i]));
  const { xaxis, yaxis } = plot._fullLayout;
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
  const { xaxis, yaxis } = plot._fullLayout;
  if (mark.x == null || !xaxis || !yaxis) return null;
  const at = xaxis.l2p(mark.x);
  if (!(at >= 0 && at <= xaxis._length)) return null;
  return { left: xaxis._offset + at, top: yaxis._offset, width: 0, height: yaxis._length };
}

function draw(plot, mark) {
  const box = mark.cell ? place(plot, mark) : line(plot, mark);
  let frame = plot.querySelector(":scope > .ob-mark");
  if (!box) return frame && frame.remove();
  if (!frame) {
    frame = plot.ownerDocument.createElement("div");
    frame.className = "ob-mark";
    frame.style.cssText = "position:absolute;box-sizing:border-box;pointer-events:none";
    plot.style.position = "relative";
    plot.append(frame);
  }
  frame.style.border = mark.cell ? "2.5px solid #1f2430" : "none";
  frame.style.boxShadow = mark.cell ? "0 0 0 1.5px white, inset 0 0 0 1.5px white" : "none";
  frame.style.borderLeft = mark.cell ? frame.style.border : "1.5px dotted #5d6470";
  for (const [name, value] of Object.entries(box)) frame.style[name] = `${value}px`;
}

export default function ({ data, parentElement, setStateValue }) {
  running.get(parentElement)?.();
  const page = parentElement.ownerDocument;
  const plots = new Map();
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
    plots.set(plot, () => {
      for (const [event, act] of Object.entries(events)) plot.removeListener?.(event, act);
    });
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
  };

  const soon = () => (asked ||= requestAnimationFrame(look));
  const observer = new MutationObserver(soon);
  // Marks are moved from elsewhere, too.
  observer.observe(page.body, { childList: true, subtree: true, attributeFilter: ["data-mark"] });
  soon();
  const stop = () => {
    observer.disconnect();
    page.removeEventListener("click", save);
    cancelAnimationFrame(asked);
    for (const forget of plots.values()) forget();
  };
  running.set(parentElement, stop);
  return stop;
}
