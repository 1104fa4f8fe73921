// Which source words mattered: attribution beside attention, on demand, as it costs passes of the model.

import { mapsOf } from "./api.js";
import { el } from "./dom.js";
import { Matrix } from "./matrix.js";

const METHODS = {
  occlusion: ["Occlusion", "log-probability that a target token loses if the source token's vector is zero"],
  gradient: ["Gradient × input", "slope of a target token's log-probability along the source token's vector, times that vector"],
  integrated: ["Integrated gradients", "slopes of a target token's log-probability, gathered on the way from zero to the source token's vector"],
};

export class Words {
  // ask(method): the server's answer, or undefined if it was refused.
  constructor({ methods, ask }) {
    this.ask = ask;
    this.buttons = methods.map((method) => el("button", { type: "button", "data-method": method, "aria-pressed": "false", onclick: () => this.compute(method) }, METHODS[method]?.[0] ?? method));
    this.note = el("p", { class: "hint" });
    this.title = el("h3", { class: "method-title" });
    this.scores = new Matrix("Attribution", (row, column) => `${column} for ${row}`);
    this.weights = new Matrix("Cross-attention", (row, column) => `${row} → ${column}`);
    this.weightsTitle = el("h3");
    this.weightsArea = el("section", {}, this.weightsTitle, this.weights.root);
    this.results = el("div", { class: "columns", hidden: true }, el("section", {}, this.title, this.scores.root), this.weightsArea);
    this.root = el("div", { class: "panel words" },
      el("h3", {}, "Which source words mattered for each target token"),
      el("div", { class: "bar" }, el("span", { class: "label" }, "Compute by"), el("div", { class: "segments", role: "group", "aria-label": "Method" }, ...this.buttons)),
      this.note, this.results);
  }

  show(answer) {
    if (answer === this.answer) return;
    this.answer = answer;
    this.results.hidden = true;
    for (const button of this.buttons) button.setAttribute("aria-pressed", "false");
    this.note.textContent = "Attention shows where a layer looks, not what would change the output. These methods ask the whole model; they take some passes, so they run when asked.";
  }

  async compute(method) {
    const asked = this.answer;
    if (!asked) return;
    const found = await this.ask(method);
    if (!found || asked !== this.answer) return;
    for (const button of this.buttons) button.setAttribute("aria-pressed", String(button.dataset.method === method));
    const [name, meaning] = METHODS[method] ?? [method, ""];
    this.note.textContent = `${name}: ${meaning}. Blue and + speak for the target token, orange and − against it.`;
    this.title.textContent = `${name}, in nats`;
    this.results.hidden = false;
    const [rows, columns] = [found.target, found.source].map((tokens) => tokens.map(({ piece }) => piece));
    this.scores.show({ rows, columns, values: found.scores.flat(), signed: true, label: `${name}: ${rows.length} target tokens, ${columns.length} source tokens` });
    this.showAttention(asked);
  }

  showAttention(answer) {
    if (!answer.maps.cross) {
      this.weightsArea.replaceChildren(el("h3", {}, "Cross-attention"), el("p", { class: "empty" }, "This model has none to compare with."));
      return;
    }
    const maps = mapsOf(answer, "cross");
    const mean = new Float32Array(maps.rows.length * maps.columns.length);
    for (let layer = 0; layer < maps.layers; layer++) {
      for (let head = 0; head < maps.heads; head++) for (const [i, weight] of maps.of(layer, head).entries()) mean[i] += weight / (maps.layers * maps.heads);
    }
    this.weightsTitle.textContent = "Cross-attention, mean of all layers and heads";
    this.weights.show({ rows: maps.rows, columns: maps.columns, values: mean, label: "Mean cross-attention" });
  }
}
