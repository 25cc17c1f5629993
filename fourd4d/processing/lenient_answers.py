"""What a patient reader takes as the answer of a free-form response, in some seventy languages.

Every place that names an option (its letter as a letter, or its text) is judged by the words around
it: *rejected* ("not A", "A is wrong", "不是A"), *stated* ("the answer is B", "I pick B", "so B.",
"B is correct", "正解はB", ``\\boxed{B}``), or merely named. Joined places ("A or B") are one.
The last statement counts; without any, the letter that opens the text; then the only one that is
named and not rejected, letters before texts. A letter whose text is another option's, several at
once, and a letter that no option has are no answer. A capital in a sentence is not a letter by
itself: "A car", "C-shaped", "plan B".
"""

from __future__ import annotations

import dataclasses
import functools
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from fourd4d.processing import answer_languages

_W: Final = r"[^\W\u0e00-\u1dff\u1f00-\uffff]"  # Of words with spaces between them.
_OTHER: Final = r"[^\x00-\u024f\u1e00-\u1eff]"  # Of scripts other than Latin.
_WINDOW: Final = 96  # Characters on either side of a letter that can bear on it.


def _words(spaced: str, unspaced: str = "") -> str:
    """One of these words; of scripts that put no space between words, anywhere in the text."""
    found = rf"(?<![^\W_])(?:{spaced})(?![^\W_])" + (f"|{unspaced}" if unspaced else "")
    return unicodedata.normalize("NFKC", f"(?:{found})")  # As the text is.


_ANSWER: Final = _words(
    r"answers?|ans\.?|solution|conclusion|selection|verdict|result|pick|guess|correct\w*|"
    r"antwort\w*|lösung|richtig|korrekt|wahl|elección|choix|escolha|scelta|seçim\w*|réponse|"
    r"reponse|corrett[ao]|soluzione|solución|solução|respuesta|resposta|risposta|svaret|svar|"
    r"antwoord|vastaus|"
    r"válasz|răspuns\w*|odpowiedź|odpověď|jawaban\w*|cevap|cevabı|yanıt\w*|đáp án|câu trả lời|"
    r"ответ\w*|правильн\w*|верн\w*|відповідь|απάντηση|cevab\w*|gabarito|sagot|jibu",
    r"答案|正确的|正確的|答え|正解|解答|回答|答|정답|답안|답변|답|الحل|คำตอบ|الإجابة|الاجابة|الجواب|إجابة|جواب|پاسخ|"
    r"إجابتي|התשובה|उत्तर|जवाब|উত্তর|பதில்|선택|ตอบ")
_LABEL: Final = _words(
    r"options?|choices?|letter|opción|opciones|option|opção|opções|opzione|alternativa|lettre|"
    r"letra|"
    r"lettera|buchstabe|variante?|вариант\w*|буква|варіант|seçenek|şık|phương án|pilihan|"
    r"vaihtoehto",
    r"选项|選項|選択肢|选择项|الخيار|विकल्प|보기|옵션|ตัวเลือก|ข้อ|האפשרות")
_CHOOSE: Final = _words(
    r"choose|chose|choosing|pick|picked|select|selected|selecting|go with|going with|went with|"
    r"opt for|settle on|vote for|conclude|guess|say|answer|think|believe|meant|mean|"
    r"würde|dirais|diría|diria|direi|penso che sia|tippe auf|pencherais pour|escolheria|"
    r"scegliere[i]|rispondo|réponds|respondo|seleccionaría|elegiría|nghĩ là|wähle|nehme|"
    r"entscheide mich für|choisis|prends|elijo|escojo|selecciono|escolho|scelgo|"
    r"wybieram|kies|väljer|velger|vælger|seçiyorum|chọn|memilih|pilih|выбираю|выбираем|обираю",
    r"选择|選擇|应选|應選|选|選|认为是|認為是|觉得是|เลือก|أختار|בוחר")
_COPULA: Final = _words(
    r"it is|it's|it was|that is|that's|this is|must be|has to be|should be|would be|will be|"
    r"only be|"
    r"que é|que es|det er|det är|c'est|ce serait|es la|es el|é a|è la|es ist|es muss|sería la|"
    r"sería|это|mà là|doit être|"
    r"debe ser|deve ser",
    r"(?:^|(?<=[,;.]\s))(?:es|est|ist|é|è)(?![^\W_])|(?:^|(?<=[,;.:\s]))是|而是|就是|应该是|應該是|应为")
_SO: Final = _words(
    r"so|therefore|thus|hence|then|finally|overall|ultimately|but|rather|instead|actually|no|wait|"
    r"correction|sorry|yes|leaves|leaving|leaves only|left with|definitely|probably|likely|"
    r"most likely|clearly|certainly|obviously|surely|maybe|perhaps|"
    r"daher|also|folglich|sondern|donc|mais|plutôt|sino|entonces|por lo tanto|portanto|logo|mas|"
    r"sim|quindi|dunque|ma|bensì|итак|значит|следовательно|поэтому|а|але|lecz|maar|utan|men|"
    r"değil|bence|meiner meinung nach|à mon avis|en mi opinión|na minha opinião|"
    r"secondo me|по-моему|theo tôi|"
    r"(?:rather than|instead of)\s+(?:option\s+)?[a-j]\s*,|" + answer_languages.INSTEAD[0],
    answer_languages.INSTEAD[1] + "|"
    r"بل|因此|所以|故|综上|ではなく|じゃなくて|よって|したがって|따라서|그러므로|아니라|=>|->|→|⇒|∴")
# What may stand between a lead and its letter.
_GAP: Final = (
    r"(?:[^\w.;!?]|" + _words(
        r"is|are|was|would be|should be|must be|will be|has to be|seems to be|appears to be|be|'s|"
        r"the|a|most likely|most probably|likely|probably|clearly|definitely|certainly|obviously|"
        r"therefore|thus|then|indeed|actually|really|now|simply|just|only|correct|right|best|final|"
        r"true|one|my|of course|to|for|number|with|that|it|it's|it is|either|both|"
        r"ist|lautet|wäre|die|der|das|richtige|korrekte|für|est|serait|la|le|l|bonne|correcte|"
        r"finale|es|sería|el|correcta|correcto|é|seria|o|correta|correto|è|sarebbe|giusta|corretta|"
        r"je|jest|är|er|on|este|adalah|yaitu|là|đúng|это|будет|правильный|верный|є|είναι|η|şıkkı",
        r"ที่|ถูกต้อง|صحیح|הנכונה|应该|应当|应为|應|应|就|当然|是|为|為|は|が|、|은|는|이|가|คือ|هي|هو|الصحيحة|الصحيح|"
        r"است|היא|הוא|है|सही|(?:最终|正确)")
    + "|" + _ANSWER + "|" + _LABEL + r")"
)


def _led(words: str, most: int) -> re.Pattern[str]:
    return re.compile(rf"{words}{_GAP}{{0,{most}}}\Z", re.IGNORECASE)


_GOOD: Final = (
    r"correct|right|best|accurate|true|likely|the one|the answer|answer|the (?:\w+ )?"
    r"(?:answer|option|choice|one)|my (?:\w+ )?(?:answer|choice|pick)|more \w+|better|yes|fits|"
    r"matches|makes sense|works|đáp án|richtig|korrekt|die (?:richtige )?antwort|"
    r"la bonne|correcte?|juste|(?:la )?correcta|(?:a |la )?corret[ao]|corretta|giusta|doğru\w*|"
    r"(?:la |a |il |el |den |det |de )?(?:respuesta|resposta|risposta|réponse|antwort|antwoord|"
    r"svar\w*|"
    r"opción|opção|opzione)|"
    r"правильн\w*|верн\w*|benar|đúng|poprawna|juist|rätt")
_BAD: Final = (
    r"wrong|incorrect|false|inaccurate|not|no|never|ruled out|excluded|eliminated|impossible|"
    r"unlikely|a trap|out|invalid|rejected|falsch|nicht|faux|fausse|incorrecte?|incorrecta|falsa|"
    r"errata|errad[ao]|sbagliata|yanlış|неверн\w*|неправильн\w*|sai|salah|błędna|fel|onjuist")
_IS: Final = (
    r"(?:is|are|was|seems|looks|appears|would be|can be|must be|should be|could be|cannot be|"
    r"ist|est|es|é|è|to|adalah|là|jest|är)")
_ADVERB: Final = (
    r"(?:(?:to be|clearly|definitely|also|thus|therefore|then|all|both|the|only|most)\s+)*")
_IS_GOOD: Final = re.compile(
    rf"\s*(?:(?:option|choice|şıkkı|seçeneği)\s+)?(?:(?:[?).:\]\-–—→⇒>=\s]*|"
    rf"[,\s]*{_IS}\s+){_ADVERB}(?:{_GOOD})(?![^\W_])|"
    r",?\s*I (?:think|believe|guess)\s*(?:[.!]|\Z)|\s*it is\s*(?:[.!]|\Z)|"
    r"[)\].:\-–—→⇒>=\s]*[✓✔✅☑√]|"
    r"[\s:]*(?:选项|選項|项)?(?:是|为|才是)?(?:对(?![^\W_])|正确|正確|对的|對的)|\s*(?:が|は)(?:正|答え)|\s*です|"
    r"\s*だ(?:[。.]|$)|"
    r"\s*を選|\s*(?:가|이)?\s*(?:정답|맞|옳)|\s*(?:을|를)\s*(?:선택|고르|골)|\s*(?:입니다|이다|번입니다)|"
    r"\s*(?:seçeneğini\s+|şıkkını\s+)?seç\w+|"
    r"\s*(?:है|सही)|\s*'?(?:dir|dır|dur|dür|tir|tır)(?![^\W_]))", re.IGNORECASE)
_IS_BAD: Final = re.compile(
    rf"\s*(?:(?:[?).:\]\-–—→⇒>=\s]*|[,\s]*(?:'s \w+\s+)?{_IS}\s+){_ADVERB}(?:{_BAD})(?![^\W_])|"
    r"[)\s]*(?:isn't|aren't|cannot|can't|can not|does not|doesn't|do not|don't|contradicts|fails|"
    r"no es|no son|n'est|non è|não|не(?![^\W_]))|"
    r"[\s:]*(?:选项|選項|项)?(?:都)?(?:是)?(?:错|錯|不)|[)\].:\-–—→⇒>=\s]*[✗✘❌❎×]|\s*नहीं|\s*(?:は|が)(?:違|間違|誤)|"
    r"\s*では(?:なく|ない|ありません)|\s*じゃな|\s*değil|"
    r"\s*(?:가|이|는|은)?\s*(?:아니|아닙|틀))", re.IGNORECASE)
_NOT: Final = re.compile(
    _words(
        r"not|never|none of|neither|nor|than|isn't|wasn't|aren't|cannot|can't|couldn't|won't|"
        r"doesn't|don't|"
        r"didn't|instead of|rather than|except|excluding|exclude|rule out|ruling out|ruled out|"
        r"eliminate|eliminated|eliminating|unlike|reject|rejecting|discard|wrong|incorrect|"
        r"nicht|kein|keine|pas|no|no es|non|não|ikke|inte|niet|nie|не|bukan|không|không phải|ليس|"
        r"ليست",
        r"不是|不选|不選|并非|非|排除|除了|除")
    + r"(?:[ \t:(\"'\[]|" + _words(
        r"option|options|choice|answer|is|it|the|be|by|to|an?|in|at|on|of|only|from|la|le|les|die|"
        r"der|das|el|opción|option|опция|вариант|es|est|was|been|moving|going|move|moves|go|goes",
        r"选项|選項") + r"){0,6}\Z", re.IGNORECASE)
_JOIN: Final = re.compile(
    r"[)\]\"'.]*\s*(?:,|/|&|\+|、|,?\s*(?<![^\W_])(?:or|and|and/or|oder|und|ou|et|o|y|e|и|или|og|"
    r"och|"
    r"en|nor|veya|ve|hoặc|và|lub|dan|atau|tai|ja|i|ili|ali|nebo|alebo|a|sau|și|vagy|"
    r"és|või|vai|arba|ir|edo|eta|neu|au|na|atau|ή|και|ose|dhe|eller)"
    r"(?![^\W_])|和|或|与|與|及|または|もしくは|と|や|또는|या|หรือ|과|와|או|"
    r"أو)\s*"
    r"(?:(?:option|choice|either|also)\s+)?[(\[\"']*", re.IGNORECASE)
_AND_NOT: Final = (r"(?:and|und|et|y|e|и)\s+(?:definitely\s+|certainly\s+)?"
                   r"(?:not|nicht|non|pas|no|não|не)(?![^\W_])")
_END: Final = re.compile(
    rf"[)\]}}\"'»”’>]*\s*(?:[.,;:!?。\n)\]}}]|$|[-–—(]|{_AND_NOT}|"
    r"(?:because|since|as|for|not|rather|instead|given|here|with|sein|weil|denn|car|porque|perché|"
    r"потому|kerana|karena|vì)(?![^\W_])|因为|因為)", re.IGNORECASE)
# After "A" or "I" any other small word makes it an article or a pronoun.
_AS_A_WORD: Final = re.compile(
    r"\s+(?!(?:because|since|as|not|and|or|but|for|which|with|so|is|here|given|due|in|rather|"
    r"instead|seems|looks|would|must|does|may|can|cannot|then|based|if|when|while|was|has|fits|"
    r"matches|contradicts|ist|est|es|é|è|oder|und|ou|et|o|y|e|adalah|là|to|jest|är|yes)"
    r"(?![^\W_]))[a-z\u00df-\u024f]")
_OPENS: Final = re.compile(
    rf"[)\]}}\"'»”’>]*\s*(?:[.:,;!)\]、。\n]|[-–—]\s|\(|$|{_AND_NOT}|(?:because|since|as|for|not|"
    rf"rather|instead|"
    r"but|weil|denn|car|porque|perché|потому)(?![^\W_])|因为|[^\x00-\u024f])", re.IGNORECASE)
# Whatever adjectives a language has between the noun and its copula.
_IS_SAID: Final = re.compile(
    rf"(?:{_ANSWER}|{_LABEL})(?:\s+(?!(?:not|no|pas|non|nicht|não|không|не|bukan)\s)[^\W\d_]+)"
    r"{0,6}?\s*(?:[:=]|" + _words(
        r"is|would be|must be|should be|es|est|ist|é|è|este|adalah|là|är|er|je|jest|to|это|είναι",
        r"是|为|為|は|คือ|هو|هي|היא|הוא|है") + rf"){_GAP}{{0,8}}\Z", re.IGNORECASE)
_RIGHT_AFTER_ANSWER: Final = _led(rf"(?<!wrong )(?<!incorrect )(?<!other ){_ANSWER}", 10)
_RIGHT_AFTER_CHOOSE: Final = _led(_CHOOSE, 8)
_RIGHT_AFTER_SO: Final = _led(rf"(?:{_COPULA}|{_SO})", 4)
_RIGHT_AFTER_LABEL: Final = re.compile(rf"{_LABEL}[\s(\[\"':]*\Z", re.IGNORECASE)
_LEAD: Final = re.compile(rf"(?s:(.*))(?:{_CHOOSE}|{_COPULA}){_GAP}{{0,8}}\Z", re.IGNORECASE)
_INSTEAD: Final = re.compile(r"(?:rather than|instead of)\s+(?:option\s+)?\Z", re.IGNORECASE)
# The whole statement "D is.", and a question that the text itself says no to: "Is B right? No."
_BEGINS: Final = re.compile(r"(?:^|[.!?;,:\n]|(?<![^\W_])(?:but|only|rather|instead))\s*"
                            r"(?:(?:option|choice|answer)\s+)?[(\[\"']*\Z", re.IGNORECASE)
_IS_IT: Final = re.compile(r"[)\]\"']*\s+(?:is|does|sí|sì|sim|schon|doch|oui|да|jest|je|е|је)"
                           r"\s*(?:[.!;]|\Z)", re.IGNORECASE)
_ASKED: Final = re.compile(
    r"[^.!?\n]{0,60}\?[\s\"')]*(?:no|nope|nein|non|não|нет|nie|nee|nej|nei)"
    r"(?!\s+(?:doubt|question|problem)|[^\W_])", re.IGNORECASE)
_STOPS: Final = re.compile(r"\s*(?:[.,;!)\n]|$)")
_NEGATED: Final = re.compile(_words(
    r"not|never|cannot|can't|won't|don't|doesn't|didn't|wouldn't|couldn't|shouldn't|isn't|no|non|"
    r"não|nicht|pas|ne|не|không") + r"\s+(?:(?!but\s)[^\W\d_]+\s+)?\Z", re.IGNORECASE)
_MARKUP: Final = re.compile(
    r"\\(?:text(?:bf|it|rm)?|math(?:rm|bf|it|sf)|bf|rm|left|right|displaystyle)(?![A-Za-z])|"
    r"\$+|\\[()\[\],;!]|\*+|`+|~+|(?<!\w)_+|_+(?!\w)|^\s*#+|</?[a-z][a-z0-9]*(?:\s[^<>]*)?>",
    re.MULTILINE)
# Letters of other scripts: Cyrillic look-alikes, and the second and fourth of that alphabet.
_CYRILLIC: Final = str.maketrans("АВСЕНБГ", "ABCEHBD")


@dataclasses.dataclass
class _Place:
    """Where an option is named; of joined places, the letters of all.

    Attributes:
      labelled: as an option's letter ("option B", "(B)"), or by letter and text.
      is_text: by the option's text alone.
      listed: as letter, mark and text, as a question lists it.
    """

    start: int
    end: int
    letters: set[str]
    labelled: bool
    is_text: bool
    listed: bool = False


def lenient_letter(text: str, options: Sequence[str], letters: Sequence[str]) -> str | None:
    """The letter that the text gives as its answer, or None where it gives none.

    Args:
      text: the part of a response that may hold the answer.
      options: their texts, in the order of ``letters``.
      letters: one an option.
    """
    text = _plain(text)
    whole = _core(re.sub(r"^\W*\d+[.)]\s+(?=\W*[A-Ja-j]\W*$)", "", text))
    if len(whole) == 1 and whole.upper() in letters:
        return whole.upper()
    texts = [" ".join(_plain(option).split()) for option in options]
    exact = [n for n, option in enumerate(texts) if option and _folded(option) == _folded(text)]
    if exact:
        return letters[exact[0]] if len(exact) == 1 else None
    places = list(_joined(text, sorted(_places(text, texts, letters), key=lambda p: p.start)))
    judged = [_judged(text[max(0, place.start - _WINDOW) : place.start],
                      text[place.end : place.end + _WINDOW], place.is_text) for place in places]
    kept = [place for place, (rejected, _) in zip(places, judged, strict=True) if not rejected]
    stated = [place for place, (_, stated) in zip(places, judged, strict=True) if stated]
    listed = [place for place in kept if place.listed and place not in stated]
    if len(listed) > 1 and "".join(min(p.letters) for p in listed).startswith("".join(letters[:2])):
        kept = [place for place in kept if place not in listed]  # The question's options, repeated.
    alone = [place for place in kept if not place.is_text and _alone(text, place)]
    for chosen in (
        sorted([*stated, *alone], key=lambda p: p.start)[-1:],
        [place for place in places[:1] if place in kept and _opens(text, place)],
        [place for place in kept if place.labelled],
        [place for place in kept if place.is_text],
    ):
        if chosen:
            found = set().union(*(place.letters for place in chosen))
            return found.pop() if len(found) == 1 and found <= set(letters) else None
    return None


def _plain(text: str) -> str:
    """Without markup, full-width forms and look-alikes; a boxed result is an answer."""
    text = unicodedata.normalize("NFKC", text)
    text = re.sub(r"(?<![^\W_])[АВСЕНБГ](?![^\W_])", lambda m: m[0].translate(_CYRILLIC), text)
    text = re.sub(r"~~.*?~~|<\|[^|<>\s]{1,40}\|>", " ", text)  # Struck out; special tokens.
    text = re.sub(r"\\f?box(?:ed)?\s*(?=\{)", " answer: ", text)
    text = re.sub(r"(?<!\*)\*\*\s*([A-J])[.:]?\s*\*\*(?!\*)", r"(\1)", text)
    text = _MARKUP.sub("", text).replace("’", "'").replace("{", "(").replace("}", ")")
    # A letter that another script touches stands alone to its reader.
    text = re.sub(rf"(?<={_OTHER})[A-J](?=[^A-Za-z]|$)|(?<![A-Za-z])[A-J](?={_OTHER})"
                  r"|(?<=[\u3040-\uffff])[a-j](?=[^A-Za-z]|$)", lambda m: f" {m[0]} ", text)
    return text.strip()


def _folded(text: str) -> str:
    """Without what surrounds an answer; signs stay, which tell ``-45°`` from ``45°``."""
    words = " ".join(text.split()).casefold()
    return re.sub(r"^[\s\"'“”‘’«»()\[\]:;,*_]+|[\s\"'“”‘’«»()\[\].,;:!*_]+$", "", words) or words


def _core(text: str) -> str:
    return re.sub(r"^\W+|\W+$", "", text)


def _places(text: str, texts: Sequence[str], letters: Sequence[str]) -> Iterator[_Place]:
    own = dict(zip(letters, texts, strict=True))
    named = list(_named(text, own))
    taken: list[tuple[int, int]] = []  # An option's text beside its letter is the same place.
    for match in re.finditer(r"(?<![^\W_])(?<![A-Za-z]['-])([A-Za-z])(?![^\W_]|'(?!d[iıuü]r)[a-z])",
                             text):
        at, letter = match.start(), match[1].upper()
        if any(start < at < end for start, end in taken) or any(
                place.start <= at < place.end for place in named):
            continue
        before, after = text[max(0, at - _WINDOW) : at], text[at + 1 :]
        labelled = bool(_RIGHT_AFTER_LABEL.search(before))

        def answer(before: str = before) -> bool:
            return bool(_RIGHT_AFTER_ANSWER.search(before) or _RIGHT_AFTER_CHOOSE.search(before))

        if match[1].islower():
            end = re.match(r"\s*(?:[.)\],:;\"'!]|$)", after)
            bracketed = re.search(r"(?:^|[\s(\[])\Z", before) and re.match(r"\s*[)\]]", after)
            if not end or letter not in own or not (labelled or bracketed or answer()):
                continue
        elif letter in "AI" and _AS_A_WORD.match(after) or letter == "I" and letter not in own:
            continue
        if re.match(r"\.[A-Za-z](?![A-Za-z])", after) or re.search(r"[A-Z]\.\Z", before):
            continue  # Initials.
        compound = re.match(r"-(?!d[iıuü]r(?![^\W_]))\w", after)
        if letter not in own and not answer() or compound and not _begins(
                after[1:], own.get(letter, "")):
            continue
        names, end, listed = {letter}, at + 1, False
        mark = re.match(r"[)\]\"']*\s*(?:[.:)\-–—/、]|(?=\()|\s)\s*\(?", after)
        if mark and letter in own:
            rest = after[mark.end() :]
            size = _begins(rest, own[letter])
            if size and (mark[0].strip() or _STOPS.match(rest[size:])):
                end += mark.end() + size
                labelled, listed = True, bool(mark[0].strip())
                taken.append((at, end))
            elif mark[0].strip():
                names |= {other for other, option in own.items() if _folded(option) != _folded(
                    own[letter]) and (size := _begins(rest, option))
                    and _STOPS.match(rest[size:])}
        bracket = re.search(r"[(\[]\s*\Z", before) and re.match(r"\s*[)\]]", after)
        first = re.search(r"(?:^|\n)\s*\Z", before) and re.match(r"[.:)]\s", after)
        suffix = re.match(r"\s*(?:选项|選項|번)", after)
        yield _Place(at, end, names, bool(labelled or bracket or first or suffix or len(names) > 1),
                     False, listed)
    yield from (place for place in named
                if not any(start < place.start < end for start, end in taken))


def _named(text: str, own: Mapping[str, str]) -> Iterator[_Place]:
    """Options named by their texts; one inside a longer one that is named does not count."""
    for option in sorted(set(own.values()), key=len, reverse=True):
        if not option or len(option) == 1 and option.isascii() and option.isalpha():
            continue  # A bare letter is an option's letter.
        pattern = r"\s+".join(map(re.escape, option.split()))
        pattern = rf"(?<!{_W})(?<!-)(?<!\d[.,]){pattern}(?!{_W}|-\w|[.,]\d)"
        same = {name for name, other in own.items() if _folded(other) == _folded(option)}
        for match in re.finditer(pattern, text, re.IGNORECASE):
            yield _Place(*match.span(), same, False, True)
        text = re.sub(pattern, lambda m: "\0" * len(m[0]), text, flags=re.IGNORECASE)


def _begins(text: str, option: str) -> int:
    """How many characters of the text are the option's, at its start; 0 where it differs."""
    match = re.match(r"\s+".join(map(re.escape, option.split())) + r"(?![\w-])", text,
                     re.IGNORECASE)
    return match.end() if match and option else 0


def _joined(text: str, places: Sequence[_Place]) -> Iterator[_Place]:
    """Places with only "or", "and", a comma or a bracket between them become one."""
    current: _Place | None = None
    for place in places:
        if current and _are_joined(text, current, place):
            both = current.letters | place.letters
            current = _Place(
                current.start, place.end, both,
                labelled=(current.labelled or place.labelled
                          or len(both) == 1 and current.is_text != place.is_text),
                is_text=current.is_text and place.is_text)
            continue
        if current:
            yield current
        current = place
    if current:
        yield current


def _are_joined(text: str, one: _Place, other: _Place) -> bool:
    between = text[one.end : other.start]
    if "," in between and _IS_IT.match(text[other.end :]):
        return False  # Another clause: "not B, D is."
    if _INSTEAD.search(text[max(0, one.start - _WINDOW) : one.start]):
        return False
    if re.fullmatch(r"\s*[(\[]\s*", between) and not (one.is_text or other.is_text
                                                     or re.match(r"\s*[.:]?\s*[)\]]",
                                                                 text[other.end :])):
        return False  # A remark: "B (A is wrong)".
    return bool(_JOIN.fullmatch(between) or re.fullmatch(r"\s*[(\[:]\s*|[)\]]\s*|\s+", between))


@functools.lru_cache(maxsize=1024)  # Of a response that repeats itself, most windows are alike.
def _judged(before: str, after: str, is_text: bool) -> tuple[bool, bool]:
    """Whether a place between these words is rejected, and whether it is stated."""
    lead = _LEAD.match(before)
    if _NOT.search(before) or lead and _NEGATED.search(lead[1]) or _IS_BAD.match(after) or (
            _ASKED.match(after)):
        return True, False
    denied, stated = answer_languages.judged(before, after)
    if denied or stated:
        return denied, stated
    if _RIGHT_AFTER_ANSWER.search(before) or _RIGHT_AFTER_CHOOSE.search(before):
        return False, True
    return False, not is_text and bool(_IS_SAID.search(before) or _IS_GOOD.match(after)
                                       or _IS_IT.match(after) and _BEGINS.search(before)
                                       or _END.match(after) and _RIGHT_AFTER_SO.search(before))


def _alone(text: str, place: _Place) -> bool:
    """Whether it is the last line, or the last sentence."""
    return bool(re.search(r"(?:\n|[.!?;]\s)\W*\Z", text[: place.start])
                and not _core(text[place.end :]))


def _opens(text: str, place: _Place) -> bool:
    return (not place.is_text and not _core(text[: place.start])
            and bool(_OPENS.match(text[place.end :])))
