"""What a patient reader takes as the answer of a free-form response, in a score of languages.

The reader looks for conclusions ("the answer is B", "so B.", "I choose C", "正解はC"), of which the
last one counts; then for a letter that opens the text ("B. Moving left, because …"); then for the
one option that is mentioned and not rejected; then for the one option whose text is named. A letter
is never taken from inside a sentence that does not state it ("Based on", "A car moves").
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Final

# Letters of other scripts that stand for option letters: Cyrillic look-alikes, and Б and Г, which
# have none and are the second and fourth of their alphabet.
_OTHER_SCRIPTS: Final = str.maketrans("АВСЕНБГ", "ABCEHBD")
_MARKUP: Final = re.compile(
    r"\\(?:boxed|text(?:bf|it|rm)?|mathrm|mathbf|textbf)\s*(?=\{)|\$+|\\[()\[\]]|[*_`~]+|^\s*#+",
    re.MULTILINE)

_NOUNS: Final = (
    r"answers?|options?|choices?|conclusion|selection|pick|ans|solution|response|letter|"
    r"antwort\w*|lösung|réponse|respuesta|resposta|risposta|opción|opção|opzione|alternativa|"
    r"odpowiedź|odpověď|svaret|svar|antwoord|vastaus|válasz|răspunsul|răspuns|jawabannya|jawaban|"
    r"cevap|yanıt|đáp án|câu trả lời|ответ\w*|відповідь|απάντηση")
_NOUNS_UNSPACED: Final = (  # Of scripts that put no space between words.
    r"答案|正确选项|正確選項|正确答案|正確答案|答え|正解|解答|回答|答|정답|답변|답|คำตอบ|"
    r"الإجابة|الاجابة|الجواب|إجابة|جواب|پاسخ|התשובה|उत्तर|जवाब")
_VERBS: Final = (
    r"(?:i|we)(?:'d|'ll|\s+(?:would|will|must|should|have to|can|am going to|therefore|thus|"
    r"finally|do))*\s+(?:choose|chose|pick|select|say|answer|vote for|settle on|conclude|guess|"
    r"go with|opt for|went with|think it'?s|think it is|believe it'?s|believe it is|"
    r"believe|think)|"
    r"going with|go with|choose|select|pick|must be|has to be|should be|would be|will be|"
    r"can only be|"
    r"it'?s|it is|that'?s|that is|this is|"
    r"ich (?:wähle|nehme|entscheide mich für)|je (?:choisis|prends)|elijo|escojo|escolho|scelgo|"
    r"wybieram|kies ik|ik kies|jag väljer|seçiyorum|chọn|выбираю|выбираем")
_VERBS_UNSPACED: Final = (
    r"应该选|应当选|应选择|应选|选择|选|故选|應選|選擇|選|選ぶのは")
_SO: Final = (
    r"so|therefore|thus|hence|then|finally|overall|conclusion|in conclusion|also|daher|folglich|"
    r"donc|entonces|por lo tanto|portanto|logo|quindi|dunque|итак|значит|следовательно")
_SO_UNSPACED: Final = (
    r"因此|所以|故|综上|よって|したがって|따라서|그러므로|=>|->|→|⇒|=")
# What may stand between a statement and its letter.
_FILLERS: Final = (
    r"is|are|was|would be|should be|must be|will be|has to be|seems to be|appears to be|be|'s|the|"
    r"most likely|most probably|likely|probably|clearly|definitely|certainly|obviously|therefore|"
    r"thus|then|indeed|actually|really|now|simply|just|only|correct|right|best|final|true|one|my|"
    r"to|as|option|choice|letter|answer|number|with|that|it|"
    r"ist|lautet|wäre|die|der|das|richtige|korrekte|est|serait|la|le|l'|bonne|correcte|finale|"
    r"lettre|"
    r"es|sería|correcta|letra|é|seria|a|correta|è|sarebbe|giusta|corretta|lettera|"
    r"opción|opção|opzione|alternativa|variante|variant|buchstabe|je|är|er|on|este|adalah|yaitu|"
    r"là|đúng|это|будет|вариант|правильный|є|είναι|η")
_FILLERS_UNSPACED: Final = (
    r"应该|应当|应为|应|就|当然|是|为|為|选项|選項|选择|选|選|は|が|、|은|는|이|가|คือ|"
    r"هي|هو|الصحيحة|الصحيح|الخيار|است|היא|הוא|है|विकल्प|सही")
_GAP: Final = (rf"(?:[\s:：=\-–—>→\"'“”‘’«»（(\[{{<,]|{_FILLERS_UNSPACED}"
               rf"|(?<![^\W_])(?:{_FILLERS})(?![a-zà-ÿ]))*?")
# After "A" or "I" any other word makes it an article or a pronoun.
_AS_A_WORD: Final = re.compile(
    r"\s+(?!(?:because|since|as|not|and|or|but|for|which|with|so|is|here|given|due|in|rather|instead|"
    r"seems|would|must|does|may|then|based|if|when|while)\b)[a-zà-ÿ]")
_LETTER: Final = r"(?P<letter>(?-i:[A-J])|[a-j](?=\s*(?:[.)\],:;\"'!]|$)))(?![^\W_]|['’][a-z])"


def _lead(words: str, unspaced: str) -> str:
    # Normalised as the text is.
    return unicodedata.normalize("NFKC", rf"(?:(?<![^\W_])(?:{words})(?![^\W_])|{unspaced})")


_STATEMENTS: Final = _lead(_NOUNS, _NOUNS_UNSPACED), _lead(_VERBS, _VERBS_UNSPACED)
_CONSEQUENCE: Final = _lead(_SO, _SO_UNSPACED)
_RIGHT: Final = (
    r"(?:is|seems|looks|appears|would be|must be|should be)\s+(?:to be\s+)?"
    r"(?:clearly\s+|definitely\s+)?"
    r"(?:the\s+)?(?:only\s+|most\s+)?(?:correct|right|best|accurate|true|answer|likely|one|option)|"
    r"ist\s+(?:richtig|korrekt|die)|est\s+(?:la bonne|correct|juste)|es\s+(?:la\s+)?correct|"
    r"(?:é|è)\s+(?:a\s+|la\s+)?(?:corret|giust)|doğru|правильн|верн|"
    r"(?:选项|選項|项)?(?:是|为)?(?:正确|正確|对的)|が正|です|を選|입니다|이다|가 정답|가 맞|이 맞|"
    r"번(?:이|입)|"
    r"adalah|benar|đúng|सही|है")
_WRONG: Final = (
    r"(?:'s text)?\s*(?:is|are|was|seems|looks|would be|can be|must be|should be)\s+"
    r"(?:clearly\s+|definitely\s+|also\s+)?"
    r"(?:wrong|incorrect|false|not|ruled|excluded|eliminated|impossible|a trap|out\b|unlikely)|"
    r"(?:isn'?t|aren'?t|cannot|can'?t|can not|does not|doesn'?t|do not|don'?t|contradicts|fails)|"
    r"ist\s+(?:falsch|nicht)|est\s+(?:faux|fausse|incorrect)|n'est|no\s+es|es\s+(?:incorrect|falsa)|"
    r"não|non\s+è|неверн|неправильн|(?:选项|選項|项)?(?:是)?(?:错|錯|不)|は(?:違|間違|誤)|"
    r"yanlış|sai\b|salah")
_NOT: Final = (
    r"(?:not|n't|never|neither|nor|isn't|instead of|rather than|except|exclude|excluding|rule out|"
    r"ruling out|eliminate|eliminating|unlike|reject|rejecting|wrong|incorrect|against|than|"
    r"nicht|keine|pas|kein|non|não|ikke|inte|niet|nie|не|"
    r"不是|不选|并非|排除|ではなく|아니라|아닌)"
    r"(?:\s+(?:option|choice|answer|is|it|the|be|by|la|le|die|der|opción|опция))*[\s:：(\"']*$")


def lenient_letter(text: str, options: Sequence[str], letters: str) -> str | None:
    """Return the letter that the text gives as its answer, or None where it gives none.

    Args:
      text: the part of a response that may hold the answer.
      options: their texts, in the order of ``letters``.
      letters: one an option.
    """
    text = _plain(text)
    if not text or not letters:
        return None
    whole = text.strip(" \t\n.,;:!()[]{}<>\"'“”‘’。、：（）【】「」")
    if len(whole) == 1 and whole.upper() in letters:
        return whole.upper()
    exact = [n for n, option in enumerate(options) if _same(option, text)]
    if len(exact) == 1:
        return letters[exact[0]]
    reader = _Reader(text, options, letters)
    for found in (reader.concluded(), reader.opening(), reader.mentioned()):
        if found is not None:
            return found or None
    named = _named(text, options)
    return letters[named[0]] if len(named) == 1 else None


def _plain(text: str) -> str:
    """The text in plain letters: no markup, no full-width forms, no look-alikes."""
    text = unicodedata.normalize("NFKC", text)
    text = re.sub(r"(?<![^\W_])[АВСЕНБГ](?![^\W_])", lambda m: m[0].translate(_OTHER_SCRIPTS), text)
    # A letter that another script touches stands alone to its reader.
    text = re.sub(r"(?<=[^\x00-\u024f])[A-J](?=[^A-Za-z]|$)"
                  r"|(?<![A-Za-z])[A-J](?=[^\x00-\u024f])", lambda m: f" {m[0]} ", text)
    return _MARKUP.sub("", text).replace("’", "'").replace("{", "(").replace("}", ")").strip()


def _same(option: str, text: str) -> bool:
    one, other = (" ".join(t.split()).casefold().strip(" \t\n.,;:!\"'") for t in (option, text))
    return bool(option.strip()) and one == other


class _Reader:
    """One text; positions of letters in it and what is said of them."""

    def __init__(self, text: str, options: Sequence[str], letters: str):
        self.text, self.letters, self.options = text, letters, options
        self._one = f"[{letters}{letters.lower()}]"

    def concluded(self) -> str | None:
        """The letter of the last conclusion; '' where it names several or none that exists."""
        found: list[tuple[int, str]] = []
        for lead in _STATEMENTS:
            for match in re.finditer(lead + _GAP + _LETTER, self.text, re.IGNORECASE):
                before = self.text[: match.start()]
                if re.search(r"(?:wrong|incorrect|false|other)\s+$", before, re.IGNORECASE):
                    continue
                if not _only_names_an_option(match[0]):
                    self._add(found, match.start("letter"))
        found += self._said_texts()
        for match in re.finditer(rf"{_CONSEQUENCE}\s*[,:，]?\s*[(\"']?(?P<letter>[A-J])[)\"']?"
                                 r"\s*(?:[.,;!。，]|$|\n)", self.text, re.IGNORECASE):
            if match["letter"].isupper():
                self._add(found, match.start("letter"))
        for match in re.finditer(rf"(?<![^\W_])(?P<letter>[A-J])[)\]\"'.]?\s*(?:{_RIGHT})",
                                 self.text):
            self._add(found, match.start("letter"))
        for match in re.finditer(r"\bnot\s+(?:option\s+)?[A-J]\s*,?\s*but\s+(?:rather\s+)?"
                                 r"(?:option\s+)?(?P<letter>[A-J])(?![^\W_])", self.text):
            self._add(found, match.start("letter"))
        last = re.search(r"(?:^|\n)\s*[(\[]?(?P<letter>[A-J])[)\]]?\s*[.。]?\s*$", self.text)
        if last and "\n" in self.text:
            self._add(found, last.start("letter"))
        return max(found)[1] if found else None

    def _add(self, found: list[tuple[int, str]], at: int) -> None:
        """Records the letter at a position, unless it is an article, a pronoun or rejected."""
        letter, rest = self.text[at].upper(), self.text[at + 1 :]
        if self.text[at].islower() and not re.match(r"\s*(?:[.)\],:;\"'!]|$)", rest):
            return
        if letter in "AI" and _AS_A_WORD.match(rest):
            return
        if re.search(_NOT, self.text[:at], re.IGNORECASE):
            return
        if re.match(rf"[)\]\"'.]?\s*(?:{_WRONG})", rest, re.IGNORECASE):
            return
        several = re.match(rf"[)\]\"']?\s*(?:or|and|/|&|oder|und|ou|et|o|y|e|и|или|和|或|と)\s*"
                           rf"(?:option\s+)?[(\"']?({self._one})(?![^\W_])\s*(?:[.,;!)?]|$|are|both)",
                           rest)
        if several and several[1].upper() != letter or letter not in self.letters:
            letter = ""
        found.append((at, letter))

    def _said_texts(self) -> Iterator[tuple[int, str]]:
        """Options whose text follows a statement: "the answer is moving left"."""
        order = sorted(range(len(self.options)), key=lambda n: -len(self.options[n]))
        texts = [re.escape(_plain(self.options[n]))
                 for n in order if len(self.options[n].strip()) > 1]
        if not texts:
            return
        pattern = rf"{_STATEMENTS[0]}{_GAP}(?P<text>{'|'.join(texts)})(?![\w-])"
        for match in re.finditer(pattern, self.text, re.IGNORECASE):
            same = [n for n in order if _same(_plain(self.options[n]), match["text"])]
            if len(same) == 1:
                yield match.start("text"), self.letters[same[0]]

    def opening(self) -> str | None:
        """The marked letter that the text begins with."""
        match = re.match(r"[\s\"'(\[<]*([A-J])\s*(?:[)\].:、,\-–]|(?=\())(?:\s|$|[^\x00-\u024f])",
                         self.text)
        if not match or re.match(rf"\s*(?:{_WRONG})", self.text[match.end() :], re.IGNORECASE):
            return None
        rest = self.text[match.end() - 1 :]
        if re.match(rf"[,\s]*(?:or|and|/)?\s*({self._one})(?![^\W_])", rest):
            return ""
        return match[1] if match[1] in self.letters else ""

    def mentioned(self) -> str | None:
        """The one letter mentioned as an option and not rejected; '' where there are several."""
        marks = (r"(?:option|choice|answer|letter|opción|option|opção|вариант|选项|選項)\s*[(\"']?"
                 r"(?P<a>[A-J])(?![^\W_])|\((?P<b>[A-J])\)|(?<![^\W_])(?P<c>[A-J])[).:]\s"
                 r"|(?<![^\W_])(?P<d>[A-J])\s*(?:选项|選項|번)")
        found = set()
        for match in re.finditer(marks, self.text, re.IGNORECASE):
            letter = next(group for group in match.groups() if group)
            at = match.start() + match[0].rindex(letter)
            rejected = (re.search(_NOT, self.text[: match.start()], re.IGNORECASE)
                        or re.match(rf"[)\]\"'.:]?\s*(?:{_WRONG})", self.text[at + 1 :], re.I))
            if letter.isupper() and not rejected:
                found.add(letter)
        found &= set(self.letters)
        if len(found) == 1:
            return found.pop()
        return "" if found else None


def _only_names_an_option(statement: str) -> bool:
    """Whether it only names an option ("option B moves left") and does not state an answer."""
    noun = re.match(r"(?:options?|choices?|opción|opção|opzione|alternativa|letter)", statement,
                    re.I)
    states = r"[:：=]|\b(?:is|es|é|è|est|would|must|should|will)\b"
    return bool(noun) and not re.search(states, statement[noun.end() : -1])


def _named(text: str, options: Sequence[str]) -> list[int]:
    """Options named in the text; one inside a longer one that is named does not count."""
    lowered = text.casefold()
    order = sorted(range(len(options)), key=lambda n: -len(options[n]))
    named = []
    for n in order:
        option = _plain(options[n]).casefold()
        if len(option) < 2:
            continue
        pattern = re.compile(rf"(?<![\w-]){re.escape(option)}(?![\w-])")
        hits = [m for m in pattern.finditer(lowered)
                if not re.search(_NOT, lowered[: m.start()], re.IGNORECASE)]
        if pattern.search(lowered):
            if hits:
                named.append(n)
            lowered = pattern.sub(" ", lowered)
    return named
