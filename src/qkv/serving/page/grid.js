// All heads of a kind at once, a row for each layer: choose one, or switch it off.

import { el } from "./dom.js";
import { color, onTheme } from "./palette.js";

export class Grid {
  constructor({ onPick, onSwitch }) {
    Object.assign(this, { onPick, onSwitch });
    this.root = el("div", { class: "scroll grid", tabindex: 0, role: "region", "aria-label": "All heads of this kind" });
    onTheme(() => this.paint());
  }

  // chosen: { layer, head }; isOff(layer, head): whether it is switched off.
  show(maps, chosen, isOff) {
    const before = this.maps;
    Object.assign(this, { maps, chosen, isOff });
    if (before?.layers !== maps.layers || before?.heads !== maps.heads) this.build();
    if (before !== maps) this.paint();
    this.update();
  }

  build() {
    this.cells = [];
    const rows = [];
    for (let layer = 0; layer < this.maps.layers; layer++) {
      const row = el("div", { class: "grid-row", role: "group", "aria-label": `layer ${layer + 1}` }, el("span", { class: "grid-label" }, `L${layer + 1}`));
      for (let head = 0; head < this.maps.heads; head++) row.append(this.cell(layer, head));
      rows.push(row);
    }
    this.root.style.setProperty("--heads", this.maps.heads);
    this.root.replaceChildren(...rows);
  }

  cell(layer, head) {
    const canvas = el("canvas", { "aria-hidden": "true" });
    const pick = el("button", { type: "button", class: "pick", "aria-label": `Show layer ${layer + 1}, head ${head + 1}`, onclick: () => this.onPick(layer, head) }, canvas);
    const toggle = el("button", { type: "button", class: "switch", "aria-label": `H${head + 1} off, layer ${layer + 1}`, onclick: () => this.onSwitch(layer, head) });
    this.cells.push({ layer, head, canvas, pick, toggle });
    return el("div", { class: "grid-cell" }, pick, toggle);
  }

  update() {
    for (const { layer, head, pick, toggle } of this.cells) {
      pick.setAttribute("aria-pressed", String(this.chosen.layer === layer && this.chosen.head === head));
      const off = this.isOff(layer, head);
      toggle.setAttribute("aria-pressed", String(off));
      toggle.textContent = off ? `H${head + 1} off` : `H${head + 1}`;
    }
  }

  paint() {
    if (!this.maps) return;
    const probe = el("canvas", { width: 1, height: 1 }).getContext("2d");
    probe.fillStyle = color("head-0");
    probe.fillRect(0, 0, 1, 1);
    const [red, green, blue] = probe.getImageData(0, 0, 1, 1).data;
    for (const { layer, head, canvas } of this.cells) {
      [canvas.width, canvas.height] = [this.maps.columns.length, this.maps.rows.length];
      const image = new ImageData(canvas.width, canvas.height);
      const weights = this.maps.of(layer, head);
      const largest = weights.reduce((one, other) => Math.max(one, other), 1e-9);
      for (const [i, weight] of weights.entries()) image.data.set([red, green, blue, Math.round((255 * weight) / largest)], 4 * i);
      canvas.getContext("2d").putImageData(image, 0, 0);
    }
  }
}
