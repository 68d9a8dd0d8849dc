// A slider over the steps of a training. It moves the line that marks the step in figures, and puts
// the words of that step in their place, without asking the server: these are markup made there,
// where all foreign text is escaped. The server is told when the slider has come to rest.
const kept = new WeakMap(); // by parent: what outlives a new drawing
const REST = 150; // ms
const BEAT = 750; // ms a step is shown while it plays

function tag(name, attributes = {}, text) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

export default function ({ data, parentElement, setStateValue }) {
  const page = parentElement.ownerDocument;
  const root = parentElement.querySelector(".scrubber");
  const own = kept.get(parentElement) ?? { name: null, step: 0, playing: null, resting: null };
  kept.set(parentElement, own);
  own.stop?.();
  const steps = data.steps;
  const last = steps.length - 1;
  const at = () => Math.max(0, steps.indexOf(own.step));
  // An answer of the server to where the slider was does not push it back.
  if (own.name !== data.name || !steps.includes(own.step)) own.step = data.step;
  own.name = data.name;

  if (own.root !== root || !own.slider.isConnected) {
    own.root = root;
    own.slider = tag("input", { type: "range", step: 1, "aria-label": "Step of the training" });
    own.play = tag("button", { type: "button", class: "play" });
    own.back = tag("button", { type: "button", "aria-label": "One step back", title: "One step back" }, "‹");
    own.on = tag("button", { type: "button", "aria-label": "One step on", title: "One step on" }, "›");
    own.said = tag("output", { "aria-live": "polite" });
    const bar = tag("div", { class: "bar" });
    bar.append(own.play, own.back, own.on, own.said, tag("span", { class: "hint" }, "Drag, click a point of the curve, or use the arrow keys."));
    root.replaceChildren(own.slider, bar);
  }
  const { slider, play, said } = own;
  slider.min = steps[0];
  slider.max = steps[last];
  slider.disabled = last < 1;

  const plots = () =>
    data.figures
      .map((name) => [...page.querySelectorAll(`.st-key-${CSS.escape(name)} .js-plotly-plot`)].find((one) => one.offsetParent && one._fullLayout?.xaxis))
      .filter(Boolean);

  // Under the first figure, a step stands where it stands in it.
  const align = () => {
    const plot = plots()[0];
    if (!plot || last < 1) return;
    const { xaxis } = plot._fullLayout;
    const shift = plot.getBoundingClientRect().left - root.getBoundingClientRect().left + xaxis._offset;
    const [low, high] = [xaxis.l2p(steps[0]), xaxis.l2p(steps[last])];
    if (!(low >= -1 && high <= xaxis._length + 1 && high - low > 120)) return; // zoomed
    slider.style.marginLeft = `${shift + low - 8}px`;
    slider.style.width = `${high - low + 16}px`;
  };

  // What is set anew without a change would be seen as one.
  const write = (place, text) => {
    if (place.textContent !== text) place.textContent = text;
  };
  const show = () => {
    slider.value = own.step;
    slider.setAttribute("aria-valuetext", `step ${own.step} of ${steps[last]}`);
    write(said, `Step ${own.step.toLocaleString("en")} of ${steps[last].toLocaleString("en")}`);
    write(play, own.playing ? "❚❚ Pause" : "▶ Play");
    own.back.disabled = at() === 0;
    own.on.disabled = at() === last;
    for (const name of data.figures)
      for (const holder of page.querySelectorAll(`[data-figure="${CSS.escape(name)}"]`)) {
        const mark = JSON.stringify({ x: own.step });
        if (holder.dataset.mark !== mark) holder.dataset.mark = mark;
      }
    const words = data.words[String(own.step)];
    for (const place of page.querySelectorAll('[data-of-step="scrubber"]'))
      if (words !== undefined && place.dataset.shown !== `${data.name} ${own.step} ${words.length}`) {
        place.innerHTML = words;
        place.dataset.shown = `${data.name} ${own.step} ${words.length}`;
      }
    align();
  };

  const go = (step) => {
    own.step = step;
    show();
    clearTimeout(own.resting);
    own.resting = setTimeout(() => setStateValue("step", own.step), REST);
  };
  const nearest = (value) => steps.reduce((best, one) => (Math.abs(one - value) < Math.abs(best - value) ? one : best));
  const pause = () => {
    clearInterval(own.playing);
    own.playing = null;
    show();
  };
  const beat = () => {
    if (at() === last) return pause();
    go(steps[at() + 1]);
    if (at() === last) pause();
  };
  const start = () => {
    if (at() === last) go(steps[0]);
    own.playing = setInterval(beat, BEAT);
    show();
  };

  slider.oninput = () => go(nearest(Number(slider.value)));
  slider.onkeydown = (event) => {
    const moves = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -5, PageUp: 5, Home: -Infinity, End: Infinity };
    if (!(event.key in moves)) return;
    event.preventDefault();
    go(steps[Math.min(last, Math.max(0, at() + moves[event.key]))]);
  };
  play.onclick = () => (own.playing ? pause() : start());
  own.back.onclick = () => go(steps[Math.max(0, at() - 1)]);
  own.on.onclick = () => go(steps[Math.min(last, at() + 1)]);
  if (own.playing) {
    clearInterval(own.playing);
    own.playing = setInterval(beat, BEAT);
  }

  // Figures come and go with the page; a click on a point of a curve chooses its step.
  const listening = new Map();
  const clicked = (event) => {
    const x = Number(event.points?.[0]?.x);
    if (Number.isFinite(x)) go(nearest(x));
  };
  let asked = 0;
  const look = () => {
    asked = 0;
    for (const plot of listening.keys()) if (!plot.isConnected) listening.delete(plot);
    for (const plot of plots()) {
      if (listening.has(plot) || !plot.on) continue;
      plot.on("plotly_click", clicked);
      plot.on("plotly_afterplot", align);
      listening.set(plot, true);
    }
    show();
  };
  const soon = () => (asked ||= requestAnimationFrame(look));
  const observer = new MutationObserver(soon);
  observer.observe(page.body, { childList: true, subtree: true });
  const view = page.defaultView;
  view.addEventListener("resize", soon);
  look(); // now: the listeners of the last time are gone
  own.stop = () => {
    observer.disconnect();
    view.removeEventListener("resize", soon);
    cancelAnimationFrame(asked);
    for (const plot of listening.keys()) {
      plot.removeListener?.("plotly_click", clicked);
      plot.removeListener?.("plotly_afterplot", align);
    }
  };
  return () => {
    own.stop();
    clearInterval(own.playing);
    own.playing = null;
    clearTimeout(own.resting);
  };
}
