"""Words: how alike two free descriptions are, by the words they share."""

import re
import unicodedata
from typing import Final

# Words that do not describe the content of a visualization.
FUNCTION_WORDS: Final = frozenset(
    {
        *("a", "an", "and", "are", "as", "at", "but", "by", "for", "from", "in", "into", "is", "it", "its", "like"),
        *("looks", "maybe", "of", "on", "or", "some", "something", "that", "the", "there", "this", "to", "with"),
    }
)
_WORD = re.compile(r"[^\W\d_]+")


def content_words(text: str) -> frozenset[str]:
    """The words of a description: lower case, without accents, function words and the s of a plural.

    English only, and crude on purpose: "dogs" is "dog", but "mice" is not "mouse".
    """
    plain = unicodedata.normalize("NFKD", text.casefold())
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    words = (word for word in _WORD.findall(plain) if word not in FUNCTION_WORDS)
    return frozenset(_singular(word) for word in words)


def word_overlap(one: str, other: str) -> float:
    """Dice's coefficient of the content words, 2 |A ∩ B| / (|A| + |B|): 0 nothing shared, 1 the same words.

    Two descriptions of which one has no content word share nothing: 0.

    VITAL's study compares embeddings of the texts, which take "puppy" and "dog" for alike; this does not, so its values
    are lower and only compare methods within one study. Reference of the coefficient: Dice, Ecology 26, 1945.
    """
    first, second = content_words(one), content_words(other)
    return 2 * len(first & second) / (len(first) + len(second)) if first and second else 0.0


def name_overlap(description: str, name: str) -> float:
    """The overlap with the most similar of a class's names ("tench, Tinca tinca" are two)."""
    return max(word_overlap(description, synonym) for synonym in name.split(","))


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word
