// The beam search as a tree: a column for each step, its candidates by rank, and what became of each.

import { el, number, percent, plain, roving, svg, token } from "./dom.js";

const [WIDE, HIGH, LEFT, TOP] = [96, 24, 34, 24]; // a column, a row, room for the root and for the head
const MOST_NODES = 3000; // beyond, outranked candidates are not drawn
const LONGEST = 9; // characters of a label

const REASONS = {
  full: "as many outputs had ended as the beam is wide",
  hopeless: "no live beginning could have ranked among the best any more",
  limit: "the length limit was reached",
};
const FATES = {
  kept: "kept: extended further",
  finished: "finished: it ended among the best",
  outranked: "outranked: others were more probable",
  abandoned: "abandoned: the search was over",
};

export class Tree {
  // onForce(ids): a new beginning; onStep(step): a node of this step was chosen.
  constructor({ onForce, onStep }) {
    Object.assign(this, { onForce, onStep });
    this.reason = el("p", { class: "reason" });
    this.scroller = el("div", { class: "scroll tree", tabindex: 0, role: "region", "aria-label": "Search tree: Tab enters it, arrow keys follow its branches" });
    this.readout = el("div", { class: "readout", "aria-live": "polite" });
    this.root = el("section", {}, el("h3", {}, "Search"), this.reason, legend(), this.scroller, this.readout);
    // What is pointed at is told for the moment; what is chosen or focused stays, so that it can be forced.
    this.scroller.addEventListener("pointerover", (event) => this.tell(indexOf(event)));
    this.scroller.addEventListener("pointerleave", () => this.tell(this.pinned));
    this.scroller.addEventListener("focusin", (event) => this.pin(indexOf(event)));
    this.scroller.addEventListener("click", (event) => this.choose(indexOf(event)));
    this.scroller.addEventListener("keydown", (event) => this.key(event));
    this.enter = roving(this.scroller, "g.node", { next: [], previous: [] });
  }

  show(answer) {
    const { candidates, path, reason } = answer.tree;
    const focused = this.root.contains(document.activeElement);
    Object.assign(this, { candidates, path: new Set(path), pinned: null });
    const all = candidates.length <= MOST_NODES;
    const shown = candidates.map((one, index) => [one, index]).filter(([one, index]) => all || one.fate !== "outranked" || this.path.has(index));
    this.reason.textContent = `${candidates.length} candidates in ${1 + (candidates.at(-1)?.step ?? -1)} steps. The search stopped because ${REASONS[reason] ?? reason}.`
      + (all ? "" : ` ${candidates.length - shown.length} outranked ones are not drawn.`);
    const steps = 1 + (candidates.at(-1)?.step ?? 0);
    const rows = 1 + Math.max(0, ...shown.map(([one]) => one.rank));
    const [width, height] = [LEFT + WIDE * steps, TOP + HIGH * rows + 4];
    this.column = svg("rect", { class: "column", y: 0, width: WIDE, height });
    this.drawing = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Candidates of the search" },
      this.column,
      svg("circle", { class: "root", cx: 10, cy: TOP + HIGH / 2, r: 4 }),
      ...Array.from({ length: steps }, (_, step) => label(step)),
      ...shown.map(([one, index]) => this.edge(one, index)),
      ...shown.map(([one, index]) => this.node(one, index)));
    this.scroller.replaceChildren(this.drawing);
    this.nodes = new Map([...this.drawing.querySelectorAll("g.node")].map((node) => [Number(node.dataset.index), node]));
    this.nodes.get(path[0])?.setAttribute("tabindex", "0");
    this.enter();
    this.readout.replaceChildren(el("p", { class: "hint" }, "Point at a candidate, or reach it with Tab and the arrow keys; choose it to keep it here."));
    if (focused) this.nodes.get(path.at(-1))?.focus();
  }

  edge(one, index) {
    const [x, y] = place(one);
    const [fromX, fromY] = one.parent === null ? [10, TOP + HIGH / 2] : endOf(this.candidates[one.parent]);
    const bend = (fromX + x) / 2;
    return svg("path", { class: `edge ${one.fate}${this.path.has(index) ? " path" : ""}`, d: `M${fromX} ${fromY} C${bend} ${fromY} ${bend} ${y} ${x} ${y}` });
  }

  node(one, index) {
    const [x, y] = place(one);
    const onPath = this.path.has(index);
    return svg("g", {
      class: `node ${one.fate}${onPath ? " path" : ""}`, "data-index": index, transform: `translate(${x} ${y})`, role: "button",
      tabindex: -1, "aria-label": `${plain(one.piece)}, step ${one.step + 1}, ${one.fate}${onPath ? ", on the winner's path" : ""}`,
    }, svg("rect", { class: "hit", x: -8, y: -HIGH / 2 + 1, width: WIDE - 12, height: HIGH - 2, rx: 4 }),
      shape(one.fate),
      svg("text", { x: 10, y: 4 }, shortened(one.piece)));
  }

  // Mark the column of a step and bring it into view.
  at(step) {
    if (!this.column) return;
    const x = LEFT + WIDE * step - 12;
    this.column.setAttribute("x", x);
    const { scrollLeft, clientWidth } = this.scroller;
    if (x < scrollLeft || x + WIDE > scrollLeft + clientWidth) this.scroller.scrollLeft = x - clientWidth / 2;
  }

  pin(index) {
    this.pinned = index ?? this.pinned;
    this.tell(this.pinned);
  }

  choose(index) {
    if (index === null) return;
    this.pin(index);
    this.onStep(this.candidates[index].step);
  }

  key(event) {
    const index = indexOf(event);
    if (index === null) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.choose(index);
      return;
    }
    const to = this.neighbour(index, event.key);
    if (to === undefined) return;
    event.preventDefault();
    this.nodes.get(to)?.focus();
  }

  neighbour(index, key) {
    const one = this.candidates[index];
    const children = () => [...this.nodes.keys()].filter((other) => this.candidates[other].parent === index);
    const beside = (step) => [...this.nodes.keys()].find((other) => this.candidates[other].step === one.step && this.candidates[other].rank === one.rank + step);
    switch (key) {
      case "ArrowLeft": return one.parent ?? undefined;
      case "ArrowRight": return children().find((other) => this.path.has(other)) ?? children()[0];
      case "ArrowUp": return beside(-1);
      case "ArrowDown": return beside(1);
    }
    return undefined;
  }

  tell(index) {
    if (index === null) return;
    const one = this.candidates[index];
    const spelled = [];
    for (let at = index; at !== null; at = this.candidates[at].parent) spelled.unshift(this.candidates[at]);
    const forced = spelled.filter((part) => !part.special);
    this.readout.replaceChildren(
      el("p", {}, el("strong", {}, token(one.piece)), ` at position ${one.step + 1}, rank ${one.rank + 1}. ${FATES[one.fate][0].toUpperCase()}${FATES[one.fate].slice(1)}.`,
        this.path.has(index) ? " On the winner's path." : ""),
      el("p", {}, "score ", el("b", {}, number(one.score)), " · log-probability ", el("b", {}, number(one.log_probability)), ` (${percent(one.log_probability)})`),
      el("p", { class: "bar" }, el("span", { class: "pieces" }, ...spelled.flatMap((part) => [token(part.piece), " "])),
        forced.length ? el("button", { type: "button", onclick: () => this.onForce(forced.map((part) => part.token)) }, "Force this beginning") : null));
  }
}

const place = ({ step, rank }) => [LEFT + WIDE * step, TOP + HIGH * (rank + 0.5)];

function shortened(piece) {
  const text = [...plain(piece)];
  return text.length > LONGEST ? `${text.slice(0, LONGEST - 1).join("")}…` : text.join("");
}

// Where a label ends, about: what branches off begins there, so that no line runs through a word.
function endOf(one) {
  const [x, y] = place(one);
  return [x + Math.min(WIDE - 24, 13 + 7.5 * shortened(one.piece).length), y];
}

const label = (step) => svg("text", { class: "step", x: LEFT + WIDE * step, y: 14, "text-anchor": "middle" }, String(step + 1));

function indexOf(event) {
  const node = event.target.closest?.("g.node");
  return node ? Number(node.dataset.index) : null;
}

// Each fate has a shape of its own.
function shape(fate) {
  if (fate === "finished") return svg("rect", { class: "mark", x: -5, y: -5, width: 10, height: 10 });
  if (fate === "abandoned") return svg("path", { class: "mark", d: "M0 -6 6 0 0 6 -6 0Z" });
  if (fate === "outranked") return svg("path", { class: "mark", d: "M-4 -4 4 4M-4 4 4 -4" });
  return svg("circle", { class: "mark", r: 5 });
}

function legend() {
  const entries = Object.entries(FATES).map(([fate, text]) =>
    el("li", {}, svg("svg", { width: 16, height: 16, viewBox: "-8 -8 16 16", class: "key", "aria-hidden": "true" }, svg("g", { class: `node ${fate}` }, shape(fate))), text));
  const path = svg("svg", { width: 24, height: 16, viewBox: "0 -8 24 16", class: "key", "aria-hidden": "true" }, svg("path", { class: "edge kept path", d: "M0 0H24" }));
  return el("ul", { class: "legend" }, ...entries, el("li", {}, path, "the winner's path"));
}
