// What belongs to the whole page: its landmarks, how wide it is, what words mean, and the buttons of
// the sidebar that copy the link and choose light or dark.
//
// Texts are set as text, never as markup.
const running = new WeakMap();
const SWITCHER = '[data-testid="stThemeSwitcher"]';

function landmarks(page) {
  const set = (selector, attributes) => {
    const at = page.querySelector(selector);
    for (const [name, value] of Object.entries(attributes))
      if (at && at.getAttribute(name) !== value) at.setAttribute(name, value);
  };
  set('[data-testid="stMain"]', { role: "main", id: "ob-main", tabindex: "-1" });
  set('[data-testid="stSidebar"]', { role: "complementary", "aria-label": "What is open" });
  // Streamlit keeps the choice under a name of its own.
  const kept = Object.entries(page.defaultView.localStorage).find(([name]) => name.startsWith("stActiveTheme"));
  const chosen = kept ? kept[1].toLowerCase() : "system";
  for (const button of page.querySelectorAll("[data-theme-choice]"))
    set(`[data-theme-choice="${button.dataset.themeChoice}"]`, { "aria-pressed": String(chosen.includes(button.dataset.themeChoice)) });
  set('.st-key-page, [class*="st-key-page-"]', { role: "navigation", "aria-label": "Pages" });
}

// One box for all words: in the page itself it would be cut off at the edge of what holds it.
function tooltip(page) {
  let box = null;
  const hide = () => { box?.remove(); box = null; };
  const show = (event) => {
    const at = event.target.closest?.("[data-tip]");
    if (!at) return;
    hide();
    box = page.createElement("div");
    box.className = "ob-tip";
    box.setAttribute("aria-hidden", "true"); // the word's own label says it
    box.textContent = at.dataset.tip;
    page.body.append(box);
    const word = at.getBoundingClientRect(), own = box.getBoundingClientRect();
    const left = Math.min(word.left, page.documentElement.clientWidth - own.width - 12);
    const below = word.bottom + 6 + own.height < page.documentElement.clientHeight;
    box.style.left = `${Math.max(12, left)}px`;
    box.style.top = `${below ? word.bottom + 6 : word.top - own.height - 6}px`;
  };
  const gone = (event) => { if (event.type !== "keydown" || event.key === "Escape") hide(); };
  return { mouseover: show, focusin: show, mouseout: gone, focusout: gone, keydown: gone, scroll: hide };
}

async function copy(button) {
  const { defaultView: window } = button.ownerDocument;
  let done = true;
  try {
    await window.navigator.clipboard.writeText(window.location.href);
  } catch {
    done = false; // the browser does not allow it: the address is above the page, to be copied there
  }
  const before = (button.dataset.said ??= button.textContent);
  button.textContent = done ? "Copied" : "Copy it from the address bar";
  clearTimeout(button.again);
  button.again = setTimeout(() => { button.textContent = before; }, 2000);
}

// Streamlit keeps light and dark itself, and changes them only in its menu.
async function choose(page, name) {
  const window = page.defaultView;
  const until = async (find) => {
    for (let tries = 0; tries < 40; tries++) {
      const found = find();
      if (found) return found;
      await new Promise((resolve) => setTimeout(resolve, 25));
    }
    return null;
  };
  const menu = page.querySelector('[data-testid="stMainMenu"] button, [data-testid="stMainMenuButton"]');
  menu?.click();
  const switcher = menu && (await until(() => page.querySelector(SWITCHER)));
  const items = [...(switcher?.querySelectorAll('[role="menuitemradio"], [role="radio"], button') ?? [])];
  const item = items.find((one) => `${one.textContent} ${one.getAttribute("aria-label")}`.toLowerCase().includes(name));
  if (item) item.click();
  if (page.querySelector(SWITCHER)) menu.click();
  return Boolean(item);
}

// When a page has shown its heading and rested, the browser reads what other pages need besides.
const REST = 1000; // ms
let reads = false; // all instances share this module
function readAhead(page, { later }) {
  if (reads || !page.querySelector('[data-testid="stMain"] :is(h1, h2, .ob-title, .ob-h2)')) return;
  reads = true;
  const window = page.defaultView;
  const ahead = () => {
    for (const path of later) {
      const link = page.createElement("link");
      Object.assign(link, { rel: "modulepreload", href: new URL(path, window.location).href, crossOrigin: "" });
      page.head.append(link);
    }
  };
  setTimeout(() => window.requestIdleCallback(ahead), REST);
}

export default function ({ data, parentElement, setStateValue }) {
  running.get(parentElement)?.();
  const page = parentElement.ownerDocument, window = page.defaultView;
  const tips = tooltip(page);
  const click = (event) => {
    const at = event.target.closest?.("[data-copy], [data-theme-choice], [data-skip]");
    if (!at) return;
    if (at.dataset.copy !== undefined) copy(at);
    else if (at.dataset.themeChoice) choose(page, at.dataset.themeChoice).then(night);
    else { event.preventDefault(); page.getElementById("ob-main")?.focus(); }
  };
  page.addEventListener("click", click);
  for (const [name, act] of Object.entries(tips)) page.addEventListener(name, act, true);

  // Streamlit paints its own parts at once, but tells the server only when something else is done.
  const night = () =>
    setTimeout(() => {
      const { colorScheme } = window.getComputedStyle(page.querySelector('[data-testid="stApp"]'));
      landmarks(page);
      if ((colorScheme === "dark") !== data.dark) setStateValue("dark", colorScheme === "dark");
    }, 100);
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  system.addEventListener("change", night);
  night();

  let later = 0;
  const measure = () => {
    const block = page.querySelector('[data-testid="stMainBlockContainer"]');
    if (!block) return;
    const style = window.getComputedStyle(block);
    const wide = Math.round(block.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight));
    if (wide < data.narrowest) return; // a window that is so narrow is scrolled
    page.cookie = `${data.cookie}=${wide}; path=/; max-age=31536000; SameSite=Strict`;
    if (Math.abs(wide - data.width) > data.matters * data.width) setStateValue("width", wide);
  };
  const resized = () => { clearTimeout(later); later = setTimeout(measure, 400); };
  window.addEventListener("resize", resized);
  // Until the sidebar stands the page is as wide as the window: measured then, all of it would be
  // drawn again, and too wide.
  let standing = false;
  const stand = () => {
    if (standing || !page.querySelector('[data-testid="stSidebar"]')) return;
    standing = true;
    resized();
  };
  stand();
  landmarks(page);
  readAhead(page, data);
  const observer = new MutationObserver(() => { stand(); landmarks(page); readAhead(page, data); });
  observer.observe(page.body, { childList: true, subtree: true });
  const stop = () => {
    page.removeEventListener("click", click);
    for (const [name, act] of Object.entries(tips)) page.removeEventListener(name, act, true);
    window.removeEventListener("resize", resized);
    system.removeEventListener("change", night);
    observer.disconnect();
    clearTimeout(later);
  };
  running.set(parentElement, stop);
  return stop;
}
