// An empty place that asks to be filled: when it is scrolled to, and else, one after the other, when
// the page has rested for a while, so that all of it can be searched, printed and read aloud.
const NEAR = "100px"; // beyond the window: what is about to be scrolled to is begun
// ms without a change of the page, a key or a click: before the first such place is filled, and
// before the next one; and after which what was not answered is asked for again.
const REST = 1500, NEXT = 250, AGAIN = 5000;
const running = new WeakMap();
const waiting = new Set(); // all instances share this module
let stop = null;

// Fills the uppermost place when nothing else goes on.
function watch(page) {
  let changed = performance.now(), rest = REST;
  const acted = () => { changed = performance.now(); rest = REST; };
  const observer = new MutationObserver(() => { changed = performance.now(); });
  observer.observe(page.body, { childList: true, subtree: true, characterData: true });
  const acts = ["keydown", "pointerdown", "wheel"];
  for (const act of acts) page.addEventListener(act, acted, { passive: true });
  const each = setInterval(() => {
    // What is computed now goes before what nobody has scrolled to.
    const busy = page.querySelector('[data-testid="stProgress"], [data-testid="stApp"][data-test-script-state="running"]');
    const all = [...waiting];
    const now = performance.now(), soon = all.some((one) => now - one.asked < AGAIN);
    if (busy || soon || now - changed < rest) return;
    const top = (one) => one.place.getBoundingClientRect().top;
    rest = NEXT;
    all.sort((a, b) => top(a) - top(b))[0]?.ask();
  }, 100);
  return () => {
    clearInterval(each);
    observer.disconnect();
    for (const act of acts) page.removeEventListener(act, acted);
  };
}

export default function ({ data, parentElement, setTriggerValue }) {
  running.get(parentElement)?.();
  const page = parentElement.ownerDocument;
  const place = page.createElement("div");
  place.className = "ob-later";
  place.style.height = `${data?.height ?? 300}px`;
  place.setAttribute("aria-busy", "true");
  parentElement.replaceChildren(place);
  const ask = () => { one.asked = performance.now(); setTriggerValue("seen", true); };
  const one = { place, ask, asked: -Infinity };
  waiting.add(one);
  stop ??= watch(page);
  const observer = new IntersectionObserver(
    (entries) => { if (one.asked < 0 && entries.some((entry) => entry.isIntersecting)) ask(); },
    { root: page.querySelector('[data-testid="stMain"]'), rootMargin: `${NEAR} 0px` },
  );
  observer.observe(place);
  const leave = () => {
    observer.disconnect();
    waiting.delete(one);
    if (!waiting.size) stop &&= (stop(), null);
  };
  running.set(parentElement, leave);
  return leave;
}
