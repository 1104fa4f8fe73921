// Elements, tokens as people read them, and keyboard habits. Text becomes a text node, never markup.

const SPECIAL = { "<s>": "begin", "</s>": "end", "<unk>": "unknown", "<pad>": "padding" };
const SPACE = "▁"; // as SentencePiece writes it
let ids = 0;

export const freshId = (name) => `${name}-${++ids}`;

// el("button", { class: "primary", onclick: act }, "Translate"): attributes, listeners, children.
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// A piece for places that hold text alone: canvas, SVG, labels.
export const plain = (piece) => SPECIAL[piece] ?? piece.replaceAll(SPACE, "·");

// A piece as an element: its space marks stand back, special tokens look special.
export function token(piece) {
  if (piece in SPECIAL) return el("span", { class: "special" }, SPECIAL[piece]);
  const parts = piece.split(SPACE).flatMap((part, i) => (i === 0 ? [part] : [el("span", { class: "space" }, "·"), part]));
  return el("span", {}, ...parts.filter((part) => part !== ""));
}

export const percent = (logProbability) => {
  const value = 100 * Math.exp(logProbability);
  return value > 0 && value < 0.1 ? "<0.1 %" : `${value.toFixed(1)} %`;
};

export const number = (value, digits = 3) => value.toFixed(digits).replace("-", "−");

// Among many of a kind only one is a tab stop; arrows, Home and End move between them.
export function roving(box, selector, { next = ["ArrowDown", "ArrowRight"], previous = ["ArrowUp", "ArrowLeft"] } = {}) {
  const enter = () => {
    const all = [...box.querySelectorAll(selector)];
    const current = all.find((one) => one.tabIndex === 0) ?? all[0];
    for (const one of all) one.tabIndex = one === current ? 0 : -1;
  };
  box.addEventListener("focusin", (event) => {
    const focused = event.target.closest(selector);
    if (!focused) return;
    for (const one of box.querySelectorAll(selector)) one.tabIndex = one === focused ? 0 : -1;
  });
  box.addEventListener("keydown", (event) => {
    const all = [...box.querySelectorAll(selector)];
    const at = all.indexOf(event.target.closest(selector));
    if (at < 0) return;
    const to = next.includes(event.key) ? at + 1
      : previous.includes(event.key) ? at - 1
      : event.key === "Home" ? 0
      : event.key === "End" ? all.length - 1 : null;
    if (to === null) return;
    event.preventDefault();
    all[Math.max(0, Math.min(all.length - 1, to))].focus();
  });
  return enter; // to be called whenever the content has changed
}

// Tabs by the WAI-ARIA pattern: arrows move and select. `areas` is a list of { name, label, panel }.
export function tabs(label, areas, onSelect) {
  const list = el("div", { class: "tabs", role: "tablist", "aria-label": label });
  const buttons = areas.map(({ label: text, panel }) => {
    const [tabId, panelId] = [freshId("tab"), freshId("panel")];
    const button = el("button", { id: tabId, type: "button", role: "tab", "aria-controls": panelId }, text);
    for (const [name, value] of [["id", panelId], ["role", "tabpanel"], ["aria-labelledby", tabId]]) {
      panel.setAttribute(name, value);
    }
    return button;
  });
  const select = (name) => {
    const chosen = Math.max(0, areas.findIndex((area) => area.name === name));
    areas.forEach(({ panel }, i) => {
      buttons[i].setAttribute("aria-selected", String(i === chosen));
      buttons[i].tabIndex = i === chosen ? 0 : -1;
      panel.hidden = i !== chosen;
    });
    onSelect(areas[chosen].name);
  };
  buttons.forEach((button, i) => {
    button.addEventListener("click", () => select(areas[i].name));
    button.addEventListener("focus", () => select(areas[i].name));
  });
  list.append(...buttons);
  roving(list, "[role=tab]");
  return { root: el("div", { class: "tabbed" }, list, ...areas.map((area) => area.panel)), select };
}

export function select(label, name, onchange) {
  const id = freshId(name);
  const field = el("select", { id, "data-name": name, onchange: () => onchange(field.value) });
  return {
    root: el("div", { class: "field" }, el("label", { for: id }, label), field),
    offer(options, value) {
      field.replaceChildren(...options.map(([key, text]) => el("option", { value: key }, text)));
      field.value = value;
    },
  };
}
