// The page: one question on top, a view for each run below.

import { models } from "./api.js";
import * as link from "./link.js";
import { RunView } from "./run.js";

const N_BEST = 5;
const field = (id) => document.getElementById(id);
const [form, source, beam, nBest, penalty, problem, main] =
  ["question", "source", "beam", "n-best", "penalty", "problem", "runs"].map(field);
let runs = [];

const written = () => ({ source: source.value, beam: beam.value, n: nBest.value, penalty: penalty.value });

function question() {
  const number = (input) => (input.value === "" ? null : Number(input.value));
  return { source: source.value, beam: number(beam), n_best: number(nBest) ?? 1, length_penalty: number(penalty) };
}

function remember() {
  if (source.value.trim()) history.replaceState(null, "", link.write(written(), runs.map((run) => run.state)));
}

function complain(message) {
  problem.textContent = message;
  problem.hidden = !message;
}

async function translate() {
  if (runs.length === 0) return undefined;
  complain("");
  if (!source.value.trim()) return complain("The source is blank: type something to translate.");
  const invalid = [beam, nBest, penalty].find((input) => !input.checkValidity());
  if (invalid) return complain(`${invalid.labels[0].textContent}: ${invalid.validationMessage}`);
  form.classList.add("asking");
  await Promise.all(runs.map((run) => run.examine(question())));
  form.classList.remove("asking");
  remember();
}

function restore() {
  const { question: asked, states } = link.read(location.hash, runs.length);
  source.value = asked.source;
  beam.value = asked.beam || beam.defaultValue;
  nBest.value = asked.n || nBest.defaultValue;
  penalty.value = asked.penalty || penalty.defaultValue;
  for (const [i, run] of runs.entries()) run.restore(states[i]);
  if (source.value.trim()) translate();
}

async function begin() {
  let described;
  try {
    described = await models();
  } catch (error) {
    return complain(error.message);
  }
  const { options } = described[0];
  beam.defaultValue = String(Math.min(20, options.beam));
  nBest.defaultValue = String(Math.min(N_BEST, Math.max(1, options.beam)));
  penalty.defaultValue = String(options.length_penalty);
  main.classList.toggle("two", described.length > 1);
  const { states } = link.read(location.hash, described.length);
  runs = described.map((model, i) => new RunView(model, i, states[i], remember));
  main.replaceChildren(...runs.map((run) => run.root));
  addEventListener("hashchange", restore);
  restore();
  if (!source.value) source.focus();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  translate();
});
source.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  translate();
});
begin();
