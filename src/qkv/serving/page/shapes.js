// The shapes of the pass: what happened, step by step, with axes, parameters and cost; on demand.

import { el } from "./dom.js";

const HEAD = ["Step", "What happens", "Formula", "Shape", "Parameters", "Multiply–adds"];

export class Shapes {
  // ask(): the server's answer, or undefined if it was refused.
  constructor({ ask }) {
    this.ask = ask;
    this.body = el("div");
    this.root = el("div", { class: "panel shapes" },
      el("div", { class: "bar" }, el("button", { type: "button", onclick: () => this.compute() }, "Analyse this pass"),
        el("span", { class: "hint" }, "Runs the sentence through the model once more and notes every step.")),
      this.body);
  }

  show(answer) {
    if (answer === this.answer) return;
    this.answer = answer;
    this.body.replaceChildren();
  }

  async compute() {
    const asked = this.answer;
    if (!asked) return;
    const found = await this.ask();
    if (!found || asked !== this.answer) return;
    const count = (value) => (value ? value.toLocaleString("en") : "");
    const rows = found.steps.map((step) => el("tr", {},
      el("th", { scope: "row" }, step.place), el("td", {}, step.what), el("td", { class: "formula" }, step.formula),
      el("td", { class: "shape" }, step.size),
      el("td", { class: "count" }, step.shared ? "shared" : count(step.parameters)), el("td", { class: "count" }, count(step.multiply_adds))));
    const heads = HEAD.map((text, i) => el("th", { scope: "col", class: i > 3 ? "count" : null }, text));
    const total = [found.parameters, found.multiply_adds].map((value) => el("td", { class: "count" }, count(value)));
    this.body.replaceChildren(
      el("div", { class: "scroll table", tabindex: 0, role: "region", "aria-label": "Shapes of the pass" },
        el("table", {}, el("thead", {}, el("tr", {}, ...heads)), el("tbody", {}, ...rows),
          el("tfoot", {}, el("tr", {}, el("th", { scope: "row" }, "All"), el("td", { colspan: 3 }), ...total)))),
      el("p", { class: "hint" }, "Parameters are counted where they are used first; multiply–adds are those of matrix products."));
  }
}
