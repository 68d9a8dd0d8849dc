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

_INSIDE = "##"  # stands before a piece that does not begin a word


def build_tokenizer(texts: Iterable[str], *, n_ctx: int, cut: Iterable[str] = ()) -> Any:
    """A `PreTrainedTokenizerFast` whose vocabulary is the words of `texts`, in sorted order.

    It puts `<bos>` in front by itself (its post-processor does, so any loader gets it) and maps a
    word that is not in `texts` to `<unk>`. `n_ctx` is the model's context, in tokens. Words of
    `cut` are cut in two; a word that another one begins with stays whole.
    """
    from tokenizers import Regex, Tokenizer
    from tokenizers.decoders import WordPiece as WordPieceDecoder
    from tokenizers.models import WordLevel, WordPiece
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
    halves = _cut(words, set(cut))
    entries = sorted(words - halves.keys() | {piece for both in halves.values() for piece in both})
    vocabulary = {token: index for index, token in enumerate((PAD, BOS, UNK, *entries))}
    # With nothing to cut the same tokens, and simpler: a word is looked up whole.
    model = WordPiece(vocabulary, unk_token=UNK) if halves else WordLevel(vocabulary, unk_token=UNK)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pieces
    tokenizer.post_processor = TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, BOS_ID)]
    )
    # This decoder joins words by spaces and closes the gap before punctuation and "'s".
    tokenizer.decoder = WordPieceDecoder(prefix=_INSIDE, cleanup=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        unk_token=UNK,
        padding_side="right",
        model_max_length=n_ctx,
        clean_up_tokenization_spaces=False,
    )


def _cut(words: set[str], cut: set[str]) -> dict[str, tuple[str, ...]]:
    """The pieces of each word that is cut, as the longest one that fits is taken from the left."""
    cut = {word for word in cut & words if len(word) > 1}
    starts = {word[: (len(word) + 1) // 2] for word in cut} | (words - cut)
    pieces: dict[str, tuple[str, ...]] = {}
    for word in cut:
        start = max((each for each in starts if word.startswith(each)), key=len)
        pieces[word] = (start, *([_INSIDE + word[len(start) :]] if start != word else []))
    return pieces
