"""By which words BLEU counts: one of sacreBLEU's tokenizers, by default the one for the script of the references."""

import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

TOKENIZERS = ("13a", "intl", "zh", "ja-mecab", "ko-mecab", "char", "flores101", "flores200", "none")
"""sacreBLEU's names of them, as its signature has them."""

_LINES = 1000  # that the script is told by
_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_KANA = "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_HANGUL = "\u1100-\u11ff\u3130-\u318f\uac00-\ud7af"
_UNSPACED = "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Tibetan, Burmese, Khmer
_KANA_OF_JAPANESE = 0.05  # of Han and kana together; Japanese has about half, Chinese next to none

_NEEDS = {
    "ja-mecab": "`pip install 'sacrebleu[ja]'`",
    "ko-mecab": "`pip install 'sacrebleu[ko]'`",
    "flores101": "its model, which `sacrebleu --tokenize flores101` fetches",
    "flores200": "its model, which `sacrebleu --tokenize flores200` fetches",
}


def choose(said: str | None, references: Iterable[str]) -> tuple[str, str | None]:
    """The tokenizer that was asked for, or the script's (None); and what there is to tell of the choice.

    Where what it takes is not here, characters are counted: nothing is downloaded for a score.
    """
    name = by_script(references) if said is None else said
    why = "for the script of the references" if said is None else "as evaluation.bleu_tokenize says"
    if not _is_here(name):
        return "char", f"bleu counts characters (char): {name}, {why}, is not here; it takes {_NEEDS[name]}"
    if said is None and name != "13a":
        return name, f"bleu counts words by sacreBLEU's {name}, {why}; evaluation.bleu_tokenize says otherwise"
    return name, None


def by_script(references: Iterable[str]) -> str:
    """Of which sacreBLEU tokenizer most letters of the references are."""
    text = "".join(islice(references, _LINES))
    han, kana, hangul, unspaced = (len(re.findall(f"[{some}]", text)) for some in (_HAN, _KANA, _HANGUL, _UNSPACED))
    japanese = kana > _KANA_OF_JAPANESE * (han + kana)
    letters = {
        "13a": sum(map(str.isalpha, text)) - han - kana - hangul - unspaced,
        "ja-mecab" if japanese else "zh": han + kana,
        "ko-mecab": hangul,
        "char": unspaced,
    }
    return max(letters, key=lambda name: letters[name])


def _is_here(name: str) -> bool:
    """Whether it can be used without a network and without another package."""
    from sacrebleu.metrics.bleu import BLEU

    if name.startswith("flores"):
        from sacrebleu.tokenizers.tokenizer_spm import SPM_MODELS
        from sacrebleu.utils import SACREBLEU_DIR

        return Path(SACREBLEU_DIR, "models", Path(SPM_MODELS[name]["url"]).name).exists()
    try:
        BLEU(tokenize=name)
    except RuntimeError:  # says which package is missing
        return False
    return True
