"""What the field's words mean, told where they are read."""

from __future__ import annotations

import html
import re
import unicodedata

from interp.figures.drawing import theme

TERMS = {
    "activation": "The numbers that the model computes at one place for one token.",
    "attribution": "How much of a number is put down to each part of the model.",
    "clean": "The prompt with the answer that is looked for; its run gives the activations.",
    "complement": "All edges that are not in the circuit, run without it.",
    "corrupted": "The other prompt of the pair; activations of the clean one are put into its run.",
    "counterpart": "The token at the same place of the other prompt.",
    "direct logit attribution": "What each component adds by itself to the logit of a token: its "
    "output projected on that token’s direction.",
    "EAP-IG": "Edge attribution patching with integrated gradients: scores of all edges from "
    "gradients along the way from one prompt’s run to the other’s.",
    "edge": "What one component reads of another one’s output.",
    "embedding": "The vector that stands for a token before the first block.",
    "faithfulness": "How much of what the whole model does the circuit still does alone: 100% is "
    "as much, 0% what no edge at all does.",
    "final norm": "The normalisation before logits are read from the residual stream.",
    "foil": "The answer that the right one is compared with.",
    "Jacobian lens": "A lens that carries a layer’s state to the end by the average derivative of "
    "the blocks in between.",
    "logit": "A token’s score before the scores are made into probabilities.",
    "logits": "Scores of the tokens, before they are made into probabilities.",
    "logit difference": "The logit of the right answer minus that of the foil.",
    "logit lens": "What the model would say if it stopped after a layer: the residual stream there "
    "is read as the next token.",
    "margin": "By how much the right answer’s log-probability is above that of the best other "
    "one; below 0 another one wins.",
    "MLP": "The part of a block that works on each token by itself.",
    "nats": "Unit of log-probabilities with the natural logarithm: 0.69 nats are a factor of 2.",
    "patching": "Putting an activation of one run into another run, to see what depends on it.",
    "probe": "A linear classifier that reads something from activations.",
    "rank": "The place of a token among all, the likeliest one being 1.",
    "residual stream": "The vector of a token that every block reads from and adds to.",
    "selectivity": "How much better a probe does than the same probe with shuffled labels.",
    "transplant": "Putting a vector of one run into another run, at a place of its own.",
    "tuned lens": "A logit lens that corrects every layer by a map that was fitted to it.",
}
"""By term, as it stands in a sentence."""

_LONGEST = sorted(TERMS, key=len, reverse=True)
_FOLDED = {term.casefold(): text for term, text in TERMS.items()}
_FOUND = re.compile(
    rf"(?<![\w/-])({'|'.join(re.escape(term) for term in _LONGEST)})(?=s?(?![\w-]))", re.IGNORECASE
)


def explained(text: object) -> str:
    """Text escaped for the page, with what a term means behind its first mention.

    The meaning is shown while the pointer is on the term, or the keyboard.
    """
    told: set[str] = set()
    pieces, end = [], 0
    plain = str(text)
    for found in _FOUND.finditer(plain):
        name = found[0].casefold()
        if name in told:
            continue
        told.add(name)
        pieces.append(esc(plain[end : found.start()]))
        meaning = esc(_FOLDED[name])
        pieces.append(
            f'<abbr class="ob-term" tabindex="0" data-tip="{meaning}" '
            f'aria-label="{esc(found[0])}: {meaning}">{esc(found[0])}</abbr>'
        )
        end = found.end()
    return "".join([*pieces, esc(plain[end:])])


def esc(text: str) -> str:
    return html.escape(unmasked(text), quote=True)


def unmasked(text: str) -> str:
    """Text with its control and format characters, which could hide some of it or turn its
    direction, told by their code points; so are halves of characters, which no page can hold."""
    if text.isprintable():
        return text
    return "".join(theme.visible(one) if _masks(one) else one for one in text)


def _masks(character: str) -> bool:
    kind = unicodedata.category(character)
    return (kind[0] == "C" and character not in "\n\t") or kind in ("Zl", "Zp")
