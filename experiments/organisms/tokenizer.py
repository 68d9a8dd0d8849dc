"""A word-level tokenizer for an organism's small language.

Every word is one token, whether or not a space comes before it; "'s" and punctuation are tokens of
their own; hyphens and accents stay inside a word. Offsets cover the word without the space.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

PAD, BOS, UNK = "<pad>", "<bos>", "<unk>"
PAD_ID, BOS_ID, UNK_ID = 0, 1, 2

# A word ends before a possessive; a hyphen counts as part of it only between letters.
_PIECE = r"'s\b|[\p{L}\p{M}\p{N}]+(?:-[\p{L}\p{M}\p{N}]+)*|[^\s\p{L}\p{M}\p{N}]"


def build_tokenizer(texts: Iterable[str], *, n_ctx: int) -> Any:
    """A `PreTrainedTokenizerFast` whose vocabulary is the words of `texts`, in sorted order.

    It puts `<bos>` in front by itself (its post-processor does, so any loader gets it) and maps a
    word that is not in `texts` to `<unk>`. `n_ctx` is the model's context, in tokens.
    """
    from tokenizers import Regex, Tokenizer
    from tokenizers.decoders import WordPiece as WordPieceDecoder
    from tokenizers.models import WordLevel
    from tokenizers.normalizers import NFC, Replace
    from tokenizers.normalizers import Sequence as NormalizerSequence
    from tokenizers.pre_tokenizers import Sequence, Split, WhitespaceSplit
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    normalizer = NormalizerSequence([NFC(), Replace("’", "'")])
    pieces = Sequence([WhitespaceSplit(), Split(Regex(_PIECE), behavior="isolated")])
    words = {
        piece
        for text in texts
        for piece, _ in pieces.pre_tokenize_str(normalizer.normalize_str(text))
    }
    vocabulary = {token: index for index, token in enumerate((PAD, BOS, UNK, *sorted(words)))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNK))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pieces
    tokenizer.post_processor = TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, BOS_ID)]
    )
    # There are no word pieces here: this decoder joins words by spaces and closes the gap before
    # punctuation and "'s".
    tokenizer.decoder = WordPieceDecoder(prefix="##", cleanup=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        unk_token=UNK,
        padding_side="right",
        model_max_length=n_ctx,
        clean_up_tokenization_spaces=False,
    )
