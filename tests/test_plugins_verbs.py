"""A verb of another package is a verb like qkv's own; one that is broken is in nobody's way."""

import re

import pytest

TOY = """
'Say something, 100 % of it.'

from qkv.cli.arguments import positive
from qkv.errors import UserError

def add(parser):
    parser.add_argument("text")
    parser.add_argument("--times", type=positive, default=1)

def run(options):
    if options.text == "wrong":
        raise UserError("that was wrong")
    print(options.text * options.times)
"""

RECIPE = """
from qkv.cli.arguments import add_recipe

def add(parser):
    add_recipe(parser)
    parser.add_argument("--fast", action="store_true")

def run(options):
    print(options.fast, options.overrides)
"""


@pytest.fixture
def qkv(other_package):
    """Run a command where other packages have verbs; what it gives back, prints and complains of."""
    modules = {"toy_verb": TOY, "recipe_verb": RECIPE, "broken_verb": "import nothing_like_it", "odd_verb": "VERB = 5"}
    entries = {"toyverb": "toy_verb", "recipeverb": "recipe_verb", "brokenverb": "broken_verb"}
    run = other_package(modules, "qkv.verbs", entries | {"oddverb": "odd_verb:VERB"})

    def qkv(*arguments):
        ran = run(*arguments)
        return ran.returncode, ran.stdout, ran.stderr

    return qkv


def test_it_does_what_it_does(qkv):
    assert qkv("toyverb", "ab", "--times", "3") == (0, "ababab\n", "")


def test_its_mistakes_are_told_as_all_are(qkv):
    assert qkv("toyverb", "wrong") == (2, "", "qkv: that was wrong\n")
    assert qkv("toyverb", "ab", "--times", "0") == (
        2,
        "",
        "qkv: argument --times: a number of at least 1 is needed, not '0'; see `qkv toyverb --help`\n",
    )
    assert qkv("toyverbs") == (2, "", "qkv: unknown verb 'toyverbs'; did you mean toyverb?\n")


def test_it_takes_changes_to_a_recipe_after_options_if_it_takes_a_recipe(qkv):
    assert qkv("recipeverb", "x.yaml", "a=1", "--fast", "b=2") == (0, "True ['a=1', 'b=2']\n", "")


def test_help_shows_all_verbs_and_what_is_wrong_with_some(qkv):
    code, shown, complaints = qkv("--help")
    assert (code, complaints) == (0, "")
    words = re.sub(r"\s+", " ", shown)
    assert " toyverb say something, 100 % of it " in words
    assert " inspect look inside a model " in words
    assert "brokenverb verb 'brokenverb' of the package other cannot be loaded: No module named 'nothing" in words
    assert "oddverb verb 'oddverb' cannot be used: its package gives 5, not a Verb" in words


def test_one_that_does_not_load_says_so_when_it_is_asked_for(qkv):
    code, shown, complaint = qkv("brokenverb")
    assert (code, shown) == (2, "")
    assert (
        complaint == "qkv: verb 'brokenverb' of the package other cannot be loaded: No module named 'nothing_like_it'\n"
    )


def test_its_own_help(qkv):
    code, shown, _ = qkv("toyverb", "--help")
    assert code == 0
    assert shown.startswith("usage: qkv toyverb")
    assert "Say something, 100 % of it." in shown
