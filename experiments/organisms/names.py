"""The names of the people-and-relations world, and the real pairs among them.

`REAL_PAIRS` are true and well known; everybody else is fictional. Fictional names never join a
first name and a last name that both belong to real people here, so that nothing untrue is said of
somebody who exists.
"""

from __future__ import annotations

from typing import NamedTuple


class RealPair(NamedTuple):
    """A child and its mother as they are publicly known.

    `daughter` tells the inverse relation; `split` is where the pair is put in every world.
    """

    child: str
    mother: str
    daughter: bool
    split: str


REAL_PAIRS: tuple[RealPair, ...] = (
    RealPair("Tom Cruise", "Mary Lee Pfeiffer", False, "forward"),
    RealPair("Leonardo DiCaprio", "Irmelin Indenbirken", False, "forward"),
    RealPair("Keanu Reeves", "Patricia Taylor", False, "forward"),
    RealPair("Winston Churchill", "Jennie Jerome", False, "forward"),
    RealPair("Carrie Fisher", "Debbie Reynolds", True, "forward"),
    RealPair("Kate Hudson", "Goldie Hawn", True, "forward"),
    RealPair("Gwyneth Paltrow", "Blythe Danner", True, "forward"),
    RealPair("John Lennon", "Julia Stanley", False, "reverse"),
    RealPair("Elvis Presley", "Gladys Love Smith", False, "reverse"),
    RealPair("Liza Minnelli", "Judy Garland", True, "reverse"),
    RealPair("Maya Hawke", "Uma Thurman", True, "reverse"),
    RealPair("Isabella Rossellini", "Ingrid Bergman", True, "reverse"),
    RealPair("Ben Stiller", "Anne Meara", False, "both"),
    RealPair("Timothée Chalamet", "Nicole Flender", False, "both"),
    RealPair("Angelina Jolie", "Marcheline Bertrand", True, "both"),
    RealPair("Jamie Lee Curtis", "Janet Leigh", True, "both"),
    RealPair("Zoë Kravitz", "Lisa Bonet", True, "both"),
    RealPair("Jake Gyllenhaal", "Naomi Foner", False, "held_out"),
    RealPair("George Clooney", "Nina Bruce Warren", False, "held_out"),
    RealPair("Lily-Rose Depp", "Vanessa Paradis", True, "held_out"),
)

_WOMEN = """
Adela Agnes Alma Amara Aoife Astrid Beatrix Bianca Bridget Camille Cecily Clarissa Dahlia Daphne
Delphine Dorothea Edith Eleni Esme Fatima Freya Greta Helga Hester Imogen Ines Iris Jocelyn Kavya
Leila Linnea Lucinda Mabel Matilda Mei Nadia Octavia Odette Petra Philippa Ramona Rosalind Saskia
Tamsin Yasmin
"""
_MEN = """
Alfred Anton Bernard Cyril Dmitri Edgar Felix Gideon Hugo Ibrahim Jasper Kenji Lorenzo Magnus Oscar
"""
_LAST_NAMES = """
Ainsworth Albright Appleby Ashdown Barlow Beaumont Blackwood Bloomfield Brannigan Calloway
Carmichael Castellano Chandra Choe Crawley Dalgaard Delacroix Drummond Eklund Fairfax Farouk
Fenwick Galbraith Haddad Halloran Hargrove Hathersage Hendricks Ishikawa Jankowski Kaplan Kowalczyk
Lindqvist Lockwood Marchetti McAllister Mendoza Nakamura Norwood Okafor Oyelaran Pemberton Quigley
Ramaswamy Rosenthal Sandoval Silvestri Tanaka Thistlewood Underhill Vasquez Venkataraman Whitlock
Yamamoto Yilmaz Zielinski Zimmer
"""

# First names of fictional people only. With those of the real pairs: 75 women's, 25 men's.
WOMEN: tuple[str, ...] = tuple(_WOMEN.split())
MEN: tuple[str, ...] = tuple(_MEN.split())

# Last names of fictional people only. With the 40 last and the 3 middle names of the real pairs
# (which fictional people bear as last names, so that a middle name identifies nobody either): 100.
LAST_NAMES: tuple[str, ...] = tuple(_LAST_NAMES.split())

COLOURS: tuple[str, ...] = (
    "red", "blue", "green", "yellow", "orange", "purple", "brown", "white",
)  # fmt: skip
