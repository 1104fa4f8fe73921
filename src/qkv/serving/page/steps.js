// Token by token: what else might have come at a position, how probable it was, and the choice to force it.

import { el, percent, token } from "./dom.js";

export class Steps {
  // onForce(ids): a new beginning; onMove(position): another position.
  constructor({ onForce, onMove }) {
    Object.assign(this, { onForce, onMove });
    this.title = el("p", { class: "steps-title", "aria-live": "polite" });
    this.back = el("button", { type: "button", "aria-label": "Previous token", onclick: () => this.move(-1) }, "◀");
    this.forth = el("button", { type: "button", "aria-label": "Next token", onclick: () => this.move(1) }, "▶");
    this.list = el("ol", { class: "candidates", "aria-label": "Candidates at this position; choosing one forces it" });
    this.root = el("section", { class: "steps", onkeydown: (event) => this.key(event) },
      el("h3", {}, "Step by step", el("small", {}, " ← → move; a candidate forces itself")),
      el("div", { class: "bar" }, this.back, this.forth, this.title), this.list);
    this.position = 0;
  }

  show(answer) {
    this.answer = answer;
    this.to(Math.min(this.position, answer.target.length - 1));
  }

  key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    this.move(step);
  }

  move(step) {
    this.to(Math.max(0, Math.min(this.answer.target.length - 1, this.position + step)));
  }

  to(position) {
    this.position = position;
    const { target, candidates } = this.answer;
    const own = target[position];
    this.title.replaceChildren(`Token ${position + 1} of ${target.length}: `, el("strong", {}, token(own.piece)), ` ${percent(this.answer.log_probabilities[position])}`);
    this.back.setAttribute("aria-disabled", String(position === 0));
    this.forth.setAttribute("aria-disabled", String(position === target.length - 1));
    const focused = this.list.contains(document.activeElement);
    const shown = candidates[position].some((one) => one.token === own.token)
      ? candidates[position]
      : [...candidates[position], { ...own, log_probability: this.answer.log_probabilities[position], special: false }];
    this.list.replaceChildren(...shown.map((one) => this.row(one, one.token === own.token)));
    if (focused) this.list.querySelector("button:not(:disabled)")?.focus();
    this.onMove(position);
  }

  row(candidate, chosen) {
    const bar = el("span", { class: "bar-fill" });
    bar.style.width = `${100 * Math.exp(candidate.log_probability)}%`;
    const force = () => this.onForce([...this.answer.target.slice(0, this.position).map((one) => one.token), candidate.token]);
    return el("li", {}, el("button", {
      type: "button", class: chosen ? "chosen" : null, disabled: candidate.special, onclick: force, "data-token": candidate.token,
      "aria-current": chosen ? "true" : null, title: candidate.special ? "A special token cannot be forced" : "Begin the translation so",
    }, el("span", { class: "mark", "aria-hidden": "true" }, chosen ? "●" : ""), el("span", { class: "piece" }, token(candidate.piece)),
      el("span", { class: "bar-room", "aria-hidden": "true" }, bar), el("span", { class: "value" }, percent(candidate.log_probability))));
  }
}
