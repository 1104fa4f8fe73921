"""Greedy search: the most probable token at every step."""

import torch

from qkv.decoding.hypothesis import Hypothesis
from qkv.decoding.ranking import best_token
from qkv.decoding.steps import Progress, worth_compacting


@torch.inference_mode()
def greedy(progress: Progress) -> list[Hypothesis]:
    """For each row append the most probable token until it is the end, or the length limit is reached."""
    batch, eos = len(progress.sentences), progress.eos
    newest = torch.full((batch,), progress.bos, device=progress.device)
    live = list(range(batch))  # rows of `newest` that still grow
    outputs: list[list[int]] = [[] for _ in range(batch)]
    log_probabilities = [0.0] * batch

    while live:
        gains, newest = best_token(progress.step(newest))
        still_live = []
        new_tokens, new_gains = newest.tolist(), gains.tolist()
        for row in live:
            sentence = progress.sentences[row]
            outputs[sentence].append(new_tokens[row])
            log_probabilities[sentence] += new_gains[row]
            if new_tokens[row] != eos and len(outputs[sentence]) < progress.limits[sentence]:
                still_live.append(row)
        live = still_live
        if live and worth_compacting(len(live), len(progress.sentences)):
            rows = torch.tensor(live, device=progress.device)
            progress.keep(rows)
            newest = newest[rows]
            live = list(range(len(live)))

    found = []
    for tokens, log_probability in zip(outputs, log_probabilities, strict=True):
        finished, score = tokens[-1] == eos, progress.options.score(log_probability, len(tokens))
        found.append(Hypothesis(tokens[:-1] if finished else tokens, score, log_probability, finished))
    return found
