// One run: its output on one side, and panels that look inside. It asks the server and tells its parts.

import { ask } from "./api.js";
import { Attention } from "./attention.js";
import { el, tabs } from "./dom.js";
import { Output } from "./output.js";
import { Shapes } from "./shapes.js";
import { Steps } from "./steps.js";
import { Tree } from "./tree.js";
import { Words } from "./words.js";

const same = (one, other) => one.kind === other.kind && one.layer === other.layer && one.head === other.head;

export class RunView {
  // model: as the server describes it; index: its number there; state: of the link; onState: called when it has changed.
  constructor(model, index, state, onState) {
    Object.assign(this, { model, index, onState });
    const force = (ids) => this.change({ prefix: ids, show: 0 });
    const toggle = (kind, layer, head) => this.toggle({ kind, layer, head });
    this.output = new Output({ onShow: (show) => this.change({ show }), onPrefix: force, onAllOn: () => this.change({ off: [] }), onSwitch: toggle });
    this.attention = new Attention({ heads: model.heads, onView: (view) => this.look(view), onSwitch: toggle });
    this.tree = new Tree({ onForce: force, onStep: (step) => this.steps.to(Math.min(step, this.answer.target.length - 1)) });
    this.steps = new Steps({ onForce: force, onMove: (position) => this.tree.at(position) });
    this.words = new Words({ methods: model.methods, ask: (method) => this.request("attribution", { method }) });
    this.shapes = new Shapes({ ask: () => this.request("shapes", {}) });
    this.problem = el("p", { class: "problem", role: "alert", hidden: true });
    this.status = el("p", { class: "status", role: "status" });
    this.tabs = tabs(`Views of ${model.name}`, [
      { name: "attention", label: "Attention", panel: this.attention.root },
      { name: "search", label: "Search", panel: el("div", { class: "panel search" }, this.tree.root, this.steps.root) },
      { name: "words", label: "Words", panel: this.words.root },
      { name: "shapes", label: "Shapes", panel: this.shapes.root },
    ], (name) => this.opened(name));
    this.content = el("div", { class: "content", hidden: true }, this.output.root, this.tabs.root);
    this.root = el("article", { class: "run", "aria-label": model.name },
      el("div", { class: "run-head" }, el("h2", {}, model.name), el("p", { class: "facts" }, `${model.model} · ${model.parameters.toLocaleString("en")} parameters`), this.status),
      this.problem, this.content);
    this.restore(state);
  }

  restore(state) {
    this.state = { prefix: [], off: [], show: 0, ...state, view: this.attention.sound(state.view) };
    this.tabs.select(state.tab);
  }

  opened(name) {
    if (!this.state || this.state.tab === name) return;
    this.state.tab = name;
    this.onState();
  }

  look(view) {
    this.state.view = view;
    this.attention.show(this.answer, view, (...head) => this.isOff(...head));
    this.onState();
  }

  isOff(kind, layer, head) {
    return this.state.off.some((one) => same(one, { kind, layer, head }));
  }

  toggle(head) {
    const others = this.state.off.filter((one) => !same(one, head));
    this.change({ off: others.length < this.state.off.length ? others : [...others, head] });
  }

  // Ask again with something changed; a refusal leaves all as it was.
  async change(part) {
    const before = this.state;
    this.state = { ...before, ...part };
    const done = await this.examine(this.shared);
    if (done === false) this.state = { ...before, view: this.state.view, tab: this.state.tab };
    this.onState();
  }

  // A question for all runs. Answers true; false if it was refused; nothing if another one has overtaken it.
  async examine(shared) {
    if (this.shared && this.shared.source !== shared.source) this.state.show = 0;
    this.shared = shared;
    this.waiting?.abort();
    this.waiting = new AbortController();
    const answer = await this.request("examine", {}, this.waiting.signal);
    if (answer === undefined) return undefined;
    if (answer === null) return false;
    this.answer = answer;
    this.state.show = answer.shown;
    this.content.hidden = false;
    this.output.show(answer, this.state.off);
    this.attention.show(answer, this.state.view, (...head) => this.isOff(...head));
    this.tree.show(answer);
    this.steps.show(answer);
    this.words.show(answer);
    this.shapes.show(answer);
    return true;
  }

  // The answer; null if it was refused, which is shown; undefined if it is not wanted any more.
  async request(what, more, signal) {
    const { prefix, off, show } = this.state;
    this.busy(1);
    try {
      const answer = await ask(what, { ...this.shared, model: this.index, prefix, off, show, ...more }, signal);
      this.problem.hidden = true;
      return answer;
    } catch (error) {
      if (error.name === "AbortError") return undefined;
      this.problem.textContent = error.message;
      this.problem.hidden = false;
      return null;
    } finally {
      this.busy(-1);
    }
  }

  busy(change) {
    this.pending = (this.pending ?? 0) + change;
    this.root.setAttribute("aria-busy", String(this.pending > 0));
    this.status.textContent = this.pending > 0 ? "Computing…" : "";
  }
}
