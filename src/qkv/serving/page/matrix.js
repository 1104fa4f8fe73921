// A matrix of values between −1 and 1 with its tokens on both axes; read by pointer or arrow keys.

import { el, number, plain } from "./dom.js";
import { color, onTheme, prepare } from "./palette.js";

const FONT = "11px system-ui, sans-serif";
const LONGEST = 90; // pixels of a label

export class Matrix {
  // describe(row, column): the sentence shown for a cell.
  constructor(name, describe) {
    this.describe = describe;
    this.canvas = el("canvas", { role: "img" });
    this.box = el("div", { class: "scroll matrix", tabindex: 0, role: "group", "aria-label": `${name}; arrow keys move from cell to cell` }, this.canvas);
    this.readout = el("p", { class: "readout", "aria-live": "polite" });
    this.root = el("div", { class: "matrix-area" }, this.box, this.readout);
    this.cell = null;
    this.canvas.addEventListener("pointermove", (event) => this.point(this.at(event)));
    this.canvas.addEventListener("pointerleave", () => this.point(document.activeElement === this.box ? this.cell : null));
    this.box.addEventListener("keydown", (event) => this.move(event));
    this.box.addEventListener("blur", () => this.point(null));
    new ResizeObserver(() => this.draw()).observe(this.box);
    onTheme(() => this.draw());
  }

  // values: flat (row, column); signed: whether there may be any below zero; label: of the whole, for those who do not see it.
  show({ rows, columns, values, signed = false, label }) {
    Object.assign(this, { rows, columns, values, signed, cell: null });
    this.largest = values.reduce((largest, value) => Math.max(largest, Math.abs(value)), 1e-9);
    this.canvas.setAttribute("aria-label", label);
    this.draw();
    this.tell();
  }

  measure() {
    const context = this.canvas.getContext("2d");
    context.font = FONT;
    const widest = (pieces) => Math.min(LONGEST, Math.max(...pieces.map((piece) => context.measureText(plain(piece)).width)) + 8);
    [this.left, this.top] = [widest(this.rows), widest(this.columns)];
    const room = (this.box.clientWidth - this.left - 4) / this.columns.length;
    this.size = Math.max(11, Math.min(34, Math.floor(room)));
  }

  draw() {
    if (!this.values || this.box.clientWidth === 0) return;
    this.measure();
    const { left, top, size } = this;
    const context = prepare(this.canvas, left + size * this.columns.length + 2, top + size * this.rows.length + 2);
    context.font = FONT;
    context.textBaseline = "middle";
    this.cells(context);
    context.strokeStyle = color("line");
    context.strokeRect(left - 0.5, top - 0.5, size * this.columns.length + 1, size * this.rows.length + 1);
    this.labels(context);
    if (this.cell) {
      context.strokeStyle = color("ink");
      context.lineWidth = 2;
      context.strokeRect(left + this.cell[1] * size, top + this.cell[0] * size, size, size);
    }
  }

  cells(context) {
    const [more, less, ink] = [color("head-0"), color("head-1"), color("ink")];
    const { left, top, size, columns } = this;
    this.values.forEach((value, i) => {
      const [x, y] = [left + (i % columns.length) * size, top + Math.floor(i / columns.length) * size];
      const strength = Math.abs(value) / this.largest;
      context.globalAlpha = Math.min(1, strength);
      context.fillStyle = value < 0 ? less : more;
      context.fillRect(x, y, size, size);
      if (this.signed && strength > 0.12 && size >= 14) {
        context.globalAlpha = 1;
        context.fillStyle = ink;
        context.textAlign = "center";
        context.fillText(value < 0 ? "−" : "+", x + size / 2, y + size / 2);
      }
    });
    context.globalAlpha = 1;
  }

  labels(context) {
    const { left, top, size } = this;
    const name = (piece, chosen, x, y) => {
      context.fillStyle = color(chosen ? "accent" : "ink");
      context.fillText(shortened(context, plain(piece)), x, y);
    };
    context.textAlign = "right";
    for (const [row, piece] of this.rows.entries()) name(piece, this.cell?.[0] === row, left - 5, top + (row + 0.5) * size);
    context.textAlign = "left";
    this.columns.forEach((piece, column) => {
      context.save();
      context.translate(left + (column + 0.5) * size, top - 5);
      context.rotate(-Math.PI / 2);
      name(piece, this.cell?.[1] === column, 0, 0);
      context.restore();
    });
  }

  at(event) {
    const frame = this.canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - frame.left - this.left) / this.size);
    const row = Math.floor((event.clientY - frame.top - this.top) / this.size);
    return row >= 0 && column >= 0 && row < this.rows.length && column < this.columns.length ? [row, column] : null;
  }

  move(event) {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step || !this.values) return;
    event.preventDefault();
    const within = (value, count) => Math.max(0, Math.min(count - 1, value));
    const next = this.cell ? [this.cell[0] + step[0], this.cell[1] + step[1]] : [0, 0];
    this.point([within(next[0], this.rows.length), within(next[1], this.columns.length)]);
    const [x, y] = [this.left + this.cell[1] * this.size, this.top + this.cell[0] * this.size];
    if (x < this.box.scrollLeft || x + this.size > this.box.scrollLeft + this.box.clientWidth) this.box.scrollLeft = x - this.box.clientWidth / 2;
    if (y < this.box.scrollTop || y + this.size > this.box.scrollTop + this.box.clientHeight) this.box.scrollTop = y - this.box.clientHeight / 2;
  }

  point(cell) {
    if (String(cell) === String(this.cell)) return;
    this.cell = cell;
    this.draw();
    this.tell();
  }

  tell() {
    if (!this.cell) {
      this.readout.textContent = `The fullest colour is ${number(this.largest)}. Point at a cell, or focus the matrix and use the arrow keys.`;
      return;
    }
    const [row, column] = this.cell;
    const value = this.values[row * this.columns.length + column];
    const shown = `${this.signed && value > 0 ? "+" : ""}${number(value, this.signed ? 3 : 4)}`;
    this.readout.replaceChildren(this.describe(plain(this.rows[row]), plain(this.columns[column])), ": ", el("b", {}, shown), this.signed ? " nats" : "");
  }
}

function shortened(context, text) {
  if (context.measureText(text).width <= LONGEST - 8) return text;
  let kept = [...text];
  while (kept.length > 1 && context.measureText(`${kept.join("")}…`).width > LONGEST - 8) kept = kept.slice(0, -1);
  return `${kept.join("")}…`;
}
