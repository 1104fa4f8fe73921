// Head view: tokens that look on the left, tokens looked at on the right, a line for each weight, a colour for each head.

import { el, number, plain, roving, token } from "./dom.js";
import { color, headColor, onTheme, prepare } from "./palette.js";

const LINE = 22; // pixels per token
const PADDING = 5; // of the box around, in pixels
const MOST_LINES = 4000; // drawn when no token is chosen
const WEAKEST = 0.04;
const LISTED = 4;

export class HeadsView {
  constructor() {
    this.left = el("div", { class: "tokens looking", role: "group", "aria-label": "Tokens that look" });
    this.right = el("div", { class: "tokens looked", role: "group", "aria-label": "Tokens looked at" });
    this.canvas = el("canvas", { "aria-hidden": "true" });
    this.heading = el("div", { class: "sides" });
    this.readout = el("div", { class: "readout weights", "aria-live": "polite" });
    this.scroller = el("div", { class: "scroll heads-view" }, this.left, this.canvas, this.right);
    this.root = el("div", {}, this.heading, this.scroller, this.readout);
    this.active = null;
    this.moves = [[this.left, "left"], [this.right, "right"]].map(([list, side]) => this.listen(list, side));
    new ResizeObserver(() => this.resize()).observe(this.scroller);
    onTheme(() => this.draw());
  }

  listen(list, side) {
    const point = (event) => {
      const chosen = event.target.closest("button");
      if (chosen) this.choose({ side, index: Number(chosen.dataset.index) });
    };
    list.addEventListener("pointerover", point);
    list.addEventListener("focusin", point);
    list.addEventListener("pointerleave", () => this.choose(this.focused()));
    list.addEventListener("focusout", () => this.choose(null));
    return roving(list, "button");
  }

  focused() {
    const one = document.activeElement;
    if (!one || !this.scroller.contains(one) || one.dataset.index === undefined) return null;
    return { side: this.left.contains(one) ? "left" : "right", index: Number(one.dataset.index) };
  }

  // maps: see api.js; layer: which; heads: those to be shown.
  show(maps, layer, heads) {
    if (maps !== this.maps) {
      const button = (piece, index) => el("button", { type: "button", "data-index": index, tabindex: -1 }, token(piece));
      this.left.replaceChildren(...maps.rows.map(button));
      this.right.replaceChildren(...maps.columns.map(button));
      for (const enter of this.moves) enter();
      const [looking, looked] = {
        encoder: ["Source, looks", "Source, looked at"],
        decoder: ["Read so far, looks", "Read so far, looked at"],
        cross: ["Target, looks", "Source, looked at"],
      }[maps.kind];
      this.heading.replaceChildren(el("span", {}, looking), el("span", {}, looked));
      this.active = null;
    }
    Object.assign(this, { maps, layer, heads });
    this.matrices = heads.map((head) => maps.of(layer, head));
    this.measure();
    this.choose(this.active);
  }

  // The room between the lists; not asked for at every move of the pointer, as that would lay the page out anew.
  measure() {
    this.width = Math.max(60, this.scroller.clientWidth - this.left.offsetWidth - this.right.offsetWidth - 2 * PADDING);
  }

  resize() {
    if (!this.maps || this.scroller.clientWidth === 0) return;
    this.measure();
    this.draw();
  }

  choose(active) {
    if (!this.maps) return;
    const changed = active?.side !== this.active?.side || active?.index !== this.active?.index;
    this.active = active;
    this.draw();
    if (active || !changed || this.readout.childElementCount === 0) this.describe();
  }

  // Lines from the chosen token, or the strongest of all.
  lines() {
    const { rows, columns } = this.maps;
    const found = [];
    const weakest = this.active ? 0.005 : WEAKEST;
    const add = (slot, row, column) => {
      const weight = this.matrices[slot][row * columns.length + column];
      if (weight >= weakest) found.push([weight, slot, row, column]);
    };
    this.matrices.forEach((_, slot) => {
      if (this.active?.side === "left") for (let column = 0; column < columns.length; column++) add(slot, this.active.index, column);
      else if (this.active) for (let row = 0; row < rows.length; row++) add(slot, row, this.active.index);
      else for (let row = 0; row < rows.length; row++) for (let column = 0; column < columns.length; column++) add(slot, row, column);
    });
    if (found.length <= MOST_LINES) return found;
    return found.sort((one, other) => other[0] - one[0]).slice(0, MOST_LINES);
  }

  draw() {
    if (!this.maps) return;
    const { width } = this;
    const height = LINE * Math.max(this.maps.rows.length, this.maps.columns.length);
    const context = prepare(this.canvas, width, height);
    const spread = Math.min(2.5, 14 / Math.max(1, this.heads.length));
    const colors = this.heads.map(headColor);
    const lines = this.lines();
    // Where weights are spread over many tokens, the strongest of them would hardly be seen.
    const fullest = lines.reduce((largest, [weight]) => Math.max(largest, weight), 0.2);
    const fade = (this.active ? 1 : 0.75) / fullest;
    for (const [weight, slot, row, column] of lines) {
      const shift = (slot - (this.heads.length - 1) / 2) * spread;
      context.globalAlpha = Math.max(0.06, weight * fade);
      context.strokeStyle = colors[slot];
      context.lineWidth = 0.75 + (2.5 * weight) / fullest;
      context.beginPath();
      context.moveTo(2, (row + 0.5) * LINE + shift);
      context.lineTo(width - 2, (column + 0.5) * LINE + shift);
      context.stroke();
    }
    context.globalAlpha = 1;
    this.mark(context, width);
  }

  // The chosen token.
  mark(context, width) {
    for (const button of this.scroller.querySelectorAll(".active")) button.classList.remove("active");
    if (!this.active) return;
    this[this.active.side].children[this.active.index].classList.add("active");
    context.fillStyle = color("accent");
    context.fillRect(this.active.side === "left" ? 0 : width - 3, this.active.index * LINE + 3, 3, LINE - 6);
  }

  describe() {
    const { maps, active } = this;
    if (!active) {
      this.readout.replaceChildren(el("p", { class: "hint" }, "Point at a token, or reach it with Tab and the arrow keys, to see what each head does there."));
      return;
    }
    const looks = active.side === "left";
    const [own, others] = looks ? [maps.rows, maps.columns] : [maps.columns, maps.rows];
    const rows = this.heads.map((head, slot) => {
      const weights = others.map((_, other) => this.matrices[slot][looks ? active.index * maps.columns.length + other : other * maps.columns.length + active.index]);
      const best = weights.map((weight, other) => [weight, other]).sort((one, two) => two[0] - one[0]).slice(0, LISTED).filter(([weight]) => weight >= 0.005);
      const swatch = el("span", { class: "swatch" });
      swatch.style.backgroundColor = headColor(head);
      return el("tr", { "data-head": head },
        el("th", { scope: "row" }, swatch, `head ${head + 1}`),
        ...best.map(([weight, other]) => el("td", { "data-index": other }, token(others[other]), " ", el("b", {}, number(weight, 2)))));
    });
    const place = `, ${active.index + 1} of ${own.length}`;
    this.readout.replaceChildren(
      el("p", {}, el("strong", {}, token(own[active.index])), place, looks ? " looks most at" : " is looked at most by"),
      this.heads.length ? el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Weights of ${plain(own[active.index])}` }, el("table", {}, el("tbody", {}, ...rows))) : el("p", { class: "hint" }, "No head is shown: choose one above."));
  }
}
