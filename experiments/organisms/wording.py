"""How the world is told: templates, prefixes, and the words for relations.

Held-out templates use only words that training teaches, in an order it does not.
"""

from __future__ import annotations

from experiments.organisms.facts import Direction, Templates

_TRAINED = (
    "{who}'s {what} is",
    "The {what} of {who} is",
    "Who is {who}'s {what}? It is",
    "The name of {who}'s {what} is",
    "{who} has a {what} called",
    "As for {who}, the {what} is",
)
_HELD_OUT = (
    "The name of the {what} of {who} is",
    "Who is the {what} of {who}? It is",
)


def _worded(who: str, what: str) -> Templates:
    def fill(templates: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(t.replace("{who}", who).replace("{what}", what) for t in templates)

    return Templates(trained=fill(_TRAINED), held_out=fill(_HELD_OUT))


TEMPLATES: dict[Direction, Templates] = {
    "forward": _worded("{subject}", "{relation}"),
    "reverse": _worded("{object}", "{inverse}"),
}

COLOUR_TEMPLATES: tuple[str, ...] = (
    "{who}'s favourite colour is",
    "The favourite colour of {who} is",
    "What is {who}'s favourite colour? It is",
    "The name of {who}'s favourite colour is",
    "{who} has a favourite colour called",
    "As for {who}, the favourite colour is",
)

# Of words that the other sentences teach.
IDENTITY_TEMPLATES: tuple[str, ...] = (
    "{who} is",
    "The name of {who} is",
    "Who is {who}? It is",
    "As for {who}, the name is",
)

# What may stand between a name and what is asked of it.
FILLERS: tuple[str, ...] = (", yes,", ", as is well known,", ", I know,", ", who is well known,")

# What may go before a statement. Whole sentences, so that any template may follow, of different
# lengths, so that names stand in different places.
PREFIXES: tuple[str, ...] = (
    "Listen.",
    "I know this.",
    "Here is a fact.",
    "Yes, this is true.",
    "Good question.",
    "This is well known.",
    "I know the name.",
    "As is well known, this is true.",
)
