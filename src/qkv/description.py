"""What there is to know about a run, for a person."""

from qkv.nn.architectures import ARCHITECTURES
from qkv.run import Run
from qkv.training.checkpoint import read_description


def describe(run: Run) -> str:
    """Model, tokenizers, progress and checkpoints, one a line.

    Raises:
        UserError: if a part of the run is damaged.
    """
    config = run.config
    lines = [f"run          {run.path}"]
    tokenizers = run.tokenizers()
    sides = (
        [("both", tokenizers.source)]
        if tokenizers.joint
        else [
            ("source", tokenizers.source),
            ("target", tokenizers.target),
        ]
    )
    lines.append("tokenizer    " + "; ".join(f"{name}: {t.kind}, {t.vocab_size:,} tokens" for name, t in sides))
    if run.checkpoints():
        used = run.find_checkpoint()
        description = read_description(used)
        kind, options = ARCHITECTURES[description["architecture"]], description["model"]
        parameters = sum(p.numel() for p in kind.build(kind.config(**options)).parameters())
        state = read_description(run.checkpoints()[-1])["training"]
        lines.append(f"model        {description['architecture']}, {parameters:,} parameters")
        lines.append("             " + ", ".join(f"{name} {value}" for name, value in options.items()))
        lines.append(
            f"trained      {state['step']:,} steps, {state['epoch']:,} epochs, "
            f"{state['target_tokens']:,} target tokens, {state['seconds'] / 60:.1f} minutes"
        )
        if state["best"] is not None:
            lines.append(f"best         {config.validation.metric} {state['best']:.4g} at step {state['best_step']:,}")
        lines.append(f"checkpoints  {', '.join(path.name for path in run.checkpoints())}")
        lines.append(f"in use       {used.name}")
    else:
        lines.append(f"model        {config.model.architecture}, no checkpoint yet")
    return "\n".join(lines)
