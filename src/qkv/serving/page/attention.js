// The attention panel: which kind, layer and heads; head view, all heads, and one head as a matrix.

import { mapsOf } from "./api.js";
import { el, select } from "./dom.js";
import { Grid } from "./grid.js";
import { HeadsView } from "./heads_view.js";
import { Matrix } from "./matrix.js";
import { headColor, onTheme } from "./palette.js";

const KINDS = {
  encoder: ["Encoder", "source tokens look at the source"],
  decoder: ["Decoder", "tokens read so far look at those before them"],
  cross: ["Cross", "predicted tokens look at the source"],
};

export class Attention {
  // heads: of each layer by kind, as the server describes the model; onView(view), onSwitch(kind, layer, head): what to tell.
  constructor({ heads, onView, onSwitch }) {
    Object.assign(this, { available: heads, onView });
    this.root = el("div", { class: "panel attention" });
    if (Object.keys(heads).length === 0) {
      this.root.append(el("p", { class: "empty" }, "This model has no attention: all that its decoder knows of the source is the encoder's last state. Search, attribution and shapes work as for any model."));
      return;
    }
    this.kindButtons = Object.keys(KINDS).filter((kind) => kind in heads).map((kind) =>
      el("button", { type: "button", "data-kind": kind, title: KINDS[kind][1], onclick: () => this.change({ kind, layer: 0, head: 0 }) }, KINDS[kind][0]));
    this.layerField = select("Layer", "layer", (value) => this.change({ layer: Number(value), head: 0 }));
    this.chips = el("div", { class: "chips", role: "group", "aria-label": "Heads shown in the head view" });
    this.view = new HeadsView();
    this.grid = new Grid({
      onPick: (layer, head) => this.change({ layer, head }),
      onSwitch: (layer, head) => onSwitch(this.chosen.kind, layer, head),
    });
    this.matrix = new Matrix("The chosen head", (row, column) => `${row} → ${column}`);
    this.matrixTitle = el("h3", { class: "matrix-title" });
    this.caption = el("p", { class: "hint kind-caption" });
    this.root.append(
      el("div", { class: "bar" },
        el("div", { class: "segments", role: "group", "aria-label": "Kind of attention" }, ...this.kindButtons),
        this.layerField.root, this.chips),
      this.caption,
      el("div", { class: "columns" },
        el("section", {}, el("h3", {}, "Head view", el("small", {}, " the fullest line is the strongest shown")), this.view.root),
        el("div", {},
          el("section", {}, el("h3", {}, "All heads", el("small", {}, " each scaled to its largest weight; H1, H2, … switch off")), this.grid.root),
          el("section", {}, this.matrixTitle, this.matrix.root))));
    this.shown = null; // heads in the head view; null: all
    onTheme(() => this.drawChips());
  }

  // Of a view that may come from a link, what this model has.
  sound(view) {
    const kinds = Object.keys(KINDS).filter((kind) => kind in this.available);
    if (kinds.length === 0) return null;
    const kind = kinds.includes(view?.kind) ? view.kind : kinds.at(-1);
    const layers = this.available[kind];
    const layer = view?.layer in layers ? view.layer : layers.length - 1;
    return { kind, layer, head: view?.head < layers[layer] ? view.head : 0 };
  }

  change(part) {
    const next = { ...this.chosen, ...part };
    if (part.kind || next.layer !== this.chosen.layer) this.shown = null;
    this.onView(next);
  }

  // answer: of /api/examine; chosen: { kind, layer, head }; isOff(kind, layer, head).
  show(answer, chosen, isOff) {
    if (!chosen) return;
    Object.assign(this, { chosen, isOff });
    if (answer !== this.answer) [this.answer, this.cache] = [answer, {}];
    this.cache[chosen.kind] ??= mapsOf(answer, chosen.kind);
    const maps = this.cache[chosen.kind];
    this.maps = maps;
    for (const button of this.kindButtons) button.setAttribute("aria-pressed", String(button.dataset.kind === chosen.kind));
    this.caption.textContent = `${KINDS[chosen.kind][0]} attention: ${KINDS[chosen.kind][1]}.`;
    this.layerField.offer(Array.from({ length: maps.layers }, (_, i) => [i, String(i + 1)]), String(chosen.layer));
    this.drawChips();
    this.drawHeads();
    this.grid.show(maps, chosen, (layer, head) => isOff(chosen.kind, layer, head));
    const name = `${KINDS[chosen.kind][0]}, layer ${chosen.layer + 1}, head ${chosen.head + 1}`;
    this.matrixTitle.textContent = name;
    this.matrix.show({ rows: maps.rows, columns: maps.columns, values: maps.of(chosen.layer, chosen.head), label: `Weights of ${name}: ${maps.rows.length} rows, ${maps.columns.length} columns` });
  }

  isShown(head) {
    return this.shown === null || this.shown.has(head);
  }

  drawHeads() {
    const all = Array.from({ length: this.maps.heads }, (_, head) => head);
    this.view.show(this.maps, this.chosen.layer, all.filter((head) => this.isShown(head)));
  }

  drawChips() {
    if (!this.maps) return;
    const all = Array.from({ length: this.maps.heads }, (_, head) => head);
    const redraw = (shown) => {
      this.shown = shown;
      this.update();
      this.drawHeads();
    };
    this.chips.replaceChildren(
      el("span", { class: "label" }, "Heads"),
      ...all.map((head) => {
        const swatch = el("span", { class: "swatch" });
        swatch.style.backgroundColor = headColor(head);
        const toggle = () => {
          const shown = new Set(all.filter((one) => this.isShown(one) !== (one === head)));
          redraw(shown.size === all.length ? null : shown);
        };
        return el("button", { type: "button", class: "chip", "data-head": head, "aria-label": `head ${head + 1}`, onclick: toggle }, swatch, String(head + 1));
      }),
      el("button", { type: "button", class: "quiet", onclick: () => redraw(null) }, "all"),
      el("button", { type: "button", class: "quiet", onclick: () => redraw(new Set([this.chosen.head])) }, `only ${this.chosen.head + 1}`));
    this.update();
  }

  update() {
    for (const chip of this.chips.querySelectorAll(".chip")) {
      chip.setAttribute("aria-pressed", String(this.isShown(Number(chip.dataset.head))));
    }
  }
}
