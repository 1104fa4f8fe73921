"""The verbs by name, in the order of `qkv --help`: a file for each. Other packages add theirs as `qkv.verbs`."""

from qkv.cli.verb import Verb
from qkv.registry import Registry

VERBS: Registry[Verb] = Registry(
    "verb",
    {
        "train": "qkv.cli.verbs.train:VERB",
        "compare": "qkv.cli.verbs.compare:VERB",
        "translate": "qkv.cli.verbs.translate:VERB",
        "evaluate": "qkv.cli.verbs.evaluate:VERB",
        "score": "qkv.cli.verbs.score:VERB",
        "average": "qkv.cli.verbs.average:VERB",
        "export": "qkv.cli.verbs.export:VERB",
        "info": "qkv.cli.verbs.info:VERB",
        "attention": "qkv.cli.verbs.attention:VERB",
        "align": "qkv.cli.verbs.align:VERB",
        "shapes": "qkv.cli.verbs.shapes:VERB",
        "report": "qkv.cli.verbs.report:VERB",
        "benchmark": "qkv.cli.verbs.benchmark:VERB",
        "inspect": "qkv.cli.verbs.inspect:VERB",
    },
)
