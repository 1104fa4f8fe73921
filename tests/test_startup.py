"""What a verb loads is what a user waits for before it does anything. Each is tried in a process of its own."""

import json
import subprocess
import sys

import pytest

UNUSED = ["torch._dynamo", "torch._inductor", "torch.onnx", "sympy", "matplotlib", "pandas", "scipy", "pyarrow"]
UNUSED += ["transformers", "tokenizers", "ctranslate2", "fastapi", "jinja2", "sacrebleu", "rich"]

REPORT = f"""
import json, sys
print(json.dumps([name for name in {UNUSED} if name in sys.modules]), file=sys.stderr)
"""

# Without the report, which is drawn after the last step.
TRAIN = """
import sys
from qkv.training.trainer import train
train(sys.argv[1], ["run=" + sys.argv[2]], progress=False)
"""

TRANSLATE = """
import sys
from qkv.cli.main import main
assert main(["translate", sys.argv[1], "--input", sys.argv[2], "--threads", "1"]) == 0
"""


@pytest.fixture(scope="module")
def loaded():
    """Run code with arguments; which of the heavy libraries it has loaded."""

    def loaded(code, *arguments):
        command = [sys.executable, "-c", code + REPORT, *map(str, arguments)]
        ran = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
        return set(json.loads(ran.stderr.splitlines()[-1]))

    return loaded


@pytest.fixture(scope="module")
def torchs_own(loaded):
    """What torch loads is not ours to avoid."""
    return loaded("import torch")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("startup")
    (path / "pairs.tsv").write_text("ab\tb a\nabc\tc b a\nba\ta b\n", "utf-8")
    (path / "recipe.yaml").write_text(
        f"""\
data: {{root: {path}, train: pairs.tsv, validation: pairs.tsv}}
device: cpu
threads: 1
tokenizer: {{kind: char}}
model: {{d_model: 16, num_heads: 2, d_ff: 32, encoder_layers: 1, decoder_layers: 1}}
training: {{steps: 2, optimizer: adamw}}
""",
        "utf-8",
    )
    return path / "recipe.yaml"


def test_training_and_translating_load_what_they_use(loaded, torchs_own, recipe):
    run = recipe.parent / "run"
    assert loaded(TRAIN, recipe, run) <= torchs_own
    source = recipe.parent / "source.txt"
    source.write_text("ab\n", "utf-8")
    assert loaded(TRANSLATE, run, source) <= torchs_own | {"ctranslate2"}, "the engine that auto takes"
