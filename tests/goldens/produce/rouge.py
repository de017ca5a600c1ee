"""Stems of NLTK's PorterStemmer, and ROUGE-L of rouge_score, of words and sentences made from the list below."""
import json
import sys

from nltk.stem.porter import PorterStemmer
from rouge_score.rouge_scorer import RougeScorer

IRREGULAR = "sky skies dying lying tying news innings inning outings outing cannings canning howe proceed exceed succeed".split()
ROOTS = (
    "relat conform digit hop fall fil siz troubl ration analog hopeful electric geolog archaeolog agre fe plaster motor sing happ "
    "enjoy spy fly tri cri formal sensitiv replac adopt commun homolog bowdler ceas roll control prob yyy a oat ivy differ oper "
    "rad vil predic decis callous feud tan hiss fizz gener activ allow infer airlin gyroscop adjust defens irrit depend effect 4th"
).split()
SUFFIXES = (
    "s es ies ied ed ing eed y ly ally ation ational tional enci anci izer ably alli entli eli ousli ization ator alism iveness fulness "
    "ousness aliti iviti biliti fully logi icate ative alize iciti ical ful ness al ance ence er ic able ible ant ement ment ent ion sion "
    "tion ou ism ate iti ous ive ize e ll"
).split()
SENTENCES = [
    "The cat sat on the mat.",
    "the CATS are sitting on mats",
    "Police killed the gunman; the gunman's family was notified.",
    "police kill the gunman",
    "It's 45,000 meters (45 kilometres), isn't it?",
    "45 kilometers is equivalent to 45000 meters.",
    "Die Größe der Straße: über 100 m",
    "",
    "!!!",
    "relational operators generalize conditional relations",
    "a generalization of conditionally related operations",
]


def main(folder):
    stemmer = PorterStemmer()
    words = IRREGULAR + ROOTS + [root + suffix for i, root in enumerate(ROOTS) for suffix in SUFFIXES[i % 4 :: 4]]
    plain, stemmed = (RougeScorer(["rougeL"], use_stemmer=stem) for stem in (False, True))
    score = lambda scorer, target, prediction: scorer.score(target, prediction)["rougeL"].fmeasure
    pairs = [
        {"target": a, "prediction": b, "rouge_l": score(plain, a, b), "rouge_l_stemmed": score(stemmed, a, b)}
        for a in SENTENCES
        for b in SENTENCES
    ]
    golden = {"stems": {word: stemmer.stem(word) for word in words}, "pairs": pairs}
    with open(f"{folder}/rouge.json", "w") as file:
        json.dump(golden, file, ensure_ascii=False)
        file.write("\n")


main(sys.argv[1])
