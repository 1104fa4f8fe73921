// What came out: the translation, the n best, the forced beginning, and what switched-off heads change.

import { el, freshId, number, percent, plain, token } from "./dom.js";

export class Output {
  // onShow(index), onPrefix(ids or text), onAllOn(), onSwitch(kind, layer, head): what to tell.
  constructor({ onShow, onPrefix, onAllOn, onSwitch }) {
    Object.assign(this, { onShow, onPrefix, onSwitch });
    this.translation = el("p", { class: "translation", lang: "" });
    this.facts = el("p", { class: "facts" });
    this.note = el("p", { class: "hint engines", hidden: true });
    this.list = el("ol", { class: "n-best" });
    this.chips = el("div", { class: "chips prefix-chips", role: "group", "aria-label": "Forced tokens" });
    const id = freshId("prefix");
    this.text = el("input", { id, type: "text", maxlength: 4000, spellcheck: "false", autocomplete: "off", class: "prefix-text" });
    const form = el("form", { class: "prefix", onsubmit: (event) => this.applyText(event) },
      el("label", { for: id }, "Begin with"), this.text, el("button", { type: "submit" }, "Force"));
    this.ablation = el("section", { class: "ablation", hidden: true });
    this.allOn = el("button", { type: "button", class: "all-on", onclick: onAllOn }, "All on");
    this.root = el("div", { class: "output" },
      el("section", {}, el("h3", {}, "Translation"), this.translation, this.facts, this.note),
      this.ablation,
      el("section", {}, el("h3", {}, "N best"), this.list),
      el("section", {}, el("h3", {}, "Forced beginning"), this.chips, form));
  }

  applyText(event) {
    event.preventDefault();
    this.onPrefix(this.text.value);
  }

  show(answer, off) {
    const focused = [this.list, this.chips, this.ablation].find((part) => part.contains(document.activeElement));
    const best = answer.n_best[answer.shown];
    this.translation.textContent = best.text || "(empty)";
    this.facts.replaceChildren(
      "score ", el("b", {}, number(best.score)), " · log-probability ", el("b", {}, number(best.log_probability)),
      ` · ${answer.target.length} tokens`, best.finished ? "" : " · cut off at the length limit");
    this.note.hidden = !answer.note;
    this.note.textContent = answer.note;
    this.list.replaceChildren(...answer.n_best.map((found, index) =>
      el("li", {}, el("button", { type: "button", "aria-pressed": String(index === answer.shown), onclick: () => this.onShow(index) },
        el("span", { class: "text" }, found.text || "(empty)"),
        el("span", { class: "numbers" }, `${number(found.score)} · ${number(found.log_probability)} (${percent(found.log_probability)})${found.finished ? "" : " · cut off"}`)))));
    this.showPrefix(answer.prefix);
    this.showAblation(answer, off);
    // Buttons are made anew: whoever has used one with the keyboard goes on close by.
    if (focused === this.chips) this.text.focus();
    else if (focused) this.list.querySelector("[aria-pressed=true]").focus();
  }

  showPrefix(prefix) {
    const ids = prefix.map((one) => one.token);
    const without = (index) => this.onPrefix(ids.filter((_, i) => i !== index));
    this.chips.replaceChildren(
      ...prefix.map((one, index) => el("button", { type: "button", class: "chip", "aria-label": `${plain(one.piece)}: remove`, onclick: () => without(index) }, token(one.piece), el("span", { "aria-hidden": "true" }, " ×"))),
      prefix.length ? el("button", { type: "button", class: "quiet", onclick: () => this.onPrefix([]) }, "none")
        : el("span", { class: "hint" }, "None. Type one, or choose a candidate under Search."));
    const spelled = prefix.map(({ piece }) => piece).join("").replaceAll("▁", " ").trimStart();
    if (document.activeElement !== this.text) this.text.value = spelled;
  }

  showAblation(answer, off) {
    this.ablation.hidden = off.length === 0;
    if (off.length === 0 || !answer.intact) return;
    const [with_, without] = [answer.intact, answer.n_best[0]];
    const [kept, changed] = marked(with_.pieces, without.pieces);
    const same = with_.text === without.text;
    const line = (label, name, nodes, found) => el("div", { class: name },
      el("dt", {}, label), el("dd", {}, el("span", { class: "pieces" }, ...nodes), el("span", { class: "numbers" }, ` score ${number(found.score)}`)));
    this.ablation.replaceChildren(
      el("h3", {}, `${off.length} ${off.length === 1 ? "head" : "heads"} off `, this.allOn),
      el("div", { class: "chips", role: "group", "aria-label": "Heads that are off" }, ...off.map(({ kind, layer, head }) =>
        el("button", { type: "button", class: "chip", "aria-label": `${kind} L${layer + 1} H${head + 1}: switch on`, onclick: () => this.onSwitch(kind, layer, head) },
          `${kind} L${layer + 1} H${head + 1}`, el("span", { "aria-hidden": "true" }, " ×")))),
      el("dl", {}, line("All heads", "with", kept, with_), line("Without", "without", changed, without)),
      el("p", { class: "hint" }, same ? "The same text." : "Underlined: what the other does not have."));
  }
}

// The pieces of two outputs, those that are not in a longest common subsequence marked.
function marked(one, other) {
  const length = Array.from({ length: one.length + 1 }, () => new Uint16Array(other.length + 1));
  for (let i = one.length - 1; i >= 0; i--) {
    for (let j = other.length - 1; j >= 0; j--) {
      length[i][j] = one[i] === other[j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
    }
  }
  const [left, right] = [[], []];
  let [i, j] = [0, 0];
  const take = (list, piece, differs) => list.push(differs ? el("mark", {}, spaced(piece)) : spaced(piece));
  while (i < one.length || j < other.length) {
    if (i < one.length && j < other.length && one[i] === other[j]) {
      take(left, one[i++], false);
      take(right, other[j++], false);
    } else if (j >= other.length || (i < one.length && length[i + 1][j] >= length[i][j + 1])) {
      take(left, one[i++], true);
    } else {
      take(right, other[j++], true);
    }
  }
  return [left, right];
}

const spaced = (piece) => piece.replaceAll("▁", " ");
