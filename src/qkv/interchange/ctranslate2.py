"""CTranslate2 (https://opennmt.net/CTranslate2), a C++ engine that decodes fast on CPUs, as a target of exports."""

from pathlib import Path

from qkv.decoding.engines.agreement import Searcher
from qkv.decoding.engines.ctranslate2_engine import CTranslate2Engine
from qkv.decoding.engines.ctranslate2_model import (
    TOLERANCES,
    library,
    positions_of,
    specification,
    supported_config,
)
from qkv.interchange.target import Target, write_tokenizers
from qkv.nn.seq2seq import Seq2Seq
from qkv.text.tokenizer import Tokenizers


class CTranslate2(Target):
    """See `qkv.decoding.engines.ctranslate2_model`. Beside the model lie the tokenizers."""

    title = "CTranslate2"
    tolerances = TOLERANCES
    usage = """\
import ctranslate2, sentencepiece

translator = ctranslate2.Translator(path)
source = sentencepiece.SentencePieceProcessor(model_file=path + "/source.spm")
target = sentencepiece.SentencePieceProcessor(model_file=path + "/target.spm")
pieces = [*source.encode("A man sleeps.", out_type=str), "</s>"]
print(target.decode(translator.translate_batch([pieces], beam_size=5)[0].hypotheses[0]))"""

    def refuse(self, model: Seq2Seq) -> None:
        """See `Target`."""
        supported_config(model)

    def write(self, model: Seq2Seq, tokenizers: Tokenizers, directory: Path, quantization: str) -> None:
        """See `Target`."""
        specification(model, tokenizers, quantization).save(str(directory))
        write_tokenizers(tokenizers, directory)

    def read(self, model: Seq2Seq, tokenizers: Tokenizers, directory: Path, quantization: str) -> Searcher:
        """See `Target`. Weights that this machine cannot compute in are unfolded to float32."""
        int8 = quantization == "int8" and "int8" in library().get_supported_compute_types("cpu")
        longest = positions_of(supported_config(model))
        return CTranslate2Engine(directory, tokenizers, longest=longest, precision="int8" if int8 else "float32")


CTRANSLATE2 = CTranslate2()
