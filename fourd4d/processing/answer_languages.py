"""The words by which more languages state or deny an answer, each read by itself.

A short word of one language ("on", "ni", "da") is another word in another: it counts only beside a
word for an answer, or for a right one, of its own language.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import unicodedata
from collections.abc import Iterator
from typing import Final

_SPACED: Final = re.compile(r"[\x00-\u058f\u10a0-\u10ff\u1e00-\u1fff]*\Z")  # Words have ends.


@dataclasses.dataclass(frozen=True)
class Language:
    """Words of one language, as parts of regular expressions.

    Attributes:
      answer: an answer, and that one is right.
      label: what an option is called.
      link: what stands between that and the letter: "is", articles, "my".
      deny: what turns it round; beside the letter, before or after it.
    """

    answer: str
    label: str
    link: str
    deny: str

    @functools.cached_property
    def answers(self) -> re.Pattern[str]:
        return _compiled(_words(self.answer))

    @functools.cached_property
    def states(self) -> re.Pattern[str]:
        """Ends before the letter that the words name."""
        return _compiled(rf"{_words(self.answer)}(?:[^\w.;!?]|{self._between}){{0,12}}\Z")

    @functools.cached_property
    def denies(self) -> re.Pattern[str]:
        # After a comma it is another clause: "No, the answer is B". After a letter it denies that.
        return _compiled(rf"{_NO_LETTER}{_words(self.deny)}(?:{_OPENS}|{self._between}){{0,12}}\Z")

    @functools.cached_property
    def stated(self) -> re.Pattern[str]:
        """Begins after the letter: "… is the right answer"."""
        return _compiled(rf"{_CLOSES}(?:{_words(self.link)}\s*)*{_words(self.answer)}")

    @functools.cached_property
    def denied(self) -> re.Pattern[str]:
        # "B not A" denies the other.
        names = _words("|".join(filter(None, (self.link, self.label))))
        other = rf"(?:{_OPENS}|{names})*[A-J](?![^\W_])"
        return _compiled(rf"{_CLOSES}(?:{_words(self.link)}\s*)*{_words(self.deny)}(?!{other})")

    @functools.cached_property
    def corrects(self) -> re.Pattern[str]:
        """Ends before the letter that follows a denied one: "A not, but"."""
        instead = _words("|".join(INSTEAD))
        return _compiled(rf"(?<![^\W_])[A-J]\s*(?:{_words(self.link)}\s*)*{_words(self.deny)}"
                         rf"\s*(?:[,،]\s*(?:{instead}\s*)?|{instead}\s*)\Z")

    @property
    def _between(self) -> str:
        return "|".join(_words(words) for words in (self.link, self.answer, self.label) if words)


_CLOSES: Final = r"[)\]\"'»”]*\s*"
_NO_LETTER: Final = "".join(rf"(?<!(?-i:\b[A-J])\s{{{n}}})" for n in range(3))
_OPENS: Final = r"[\s(\[\"'«“„]"


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(unicodedata.normalize("NFKC", pattern), re.IGNORECASE)


def _words(words: str) -> str:
    """One of these; whole words in scripts that put spaces between them."""
    parts = words.split("|")
    spaced = "|".join(part for part in parts if _SPACED.match(part))
    others = "|".join(part for part in parts if not _SPACED.match(part))
    return "(?:" + "|".join(filter(None, [
        spaced and rf"(?<![^\W_])(?:{spaced})(?![^\W_])", others])) + ")"


LANGUAGES: Final = {
    "Albanian": Language(r"përgjigj\w+|saktë", "opsioni", "është|ime|e", "nuk|jo"),
    "Amharic": Language("መልስ|ትክክለኛው", "ምርጫ", "ነው|ው|ሱ", "አይደለም"),
    "Armenian": Language(r"պատասխան\w*|ճիշտ", r"տարբերակ\w*", "իմ|է", "չէ|ոչ"),
    "Azerbaijani": Language(r"cavab\w*|düzgün", "variant", "budur|mənim", "deyil"),
    "Basque": Language(r"erantzun\w*|zuzen\w*", "aukera", "nire|hau|da", "okerra|ez"),
    "Belarusian": Language(r"адказ\w*|правільн\w*", "варыянт", "гэта|ёсць|мой",
        r"няправільн\w*|не"),
    "Bengali": Language("উত্তর|সঠিক", "বিকল্প", "হচ্ছে|আমার|হলো|হবে|হল|টি|ো|ঃ", "নয়|ভুল|না"),
    "Bulgarian": Language(r"отговор\w*|верни\w*|вярн\w*|правилн\w*", r"вариант\w*",
        "моят|са|ми|е", r"греш\w*|нито|не"),
    "Burmese": Language("အဖြေ|မှန်", "", "မှာ|သည်|ကို|တဲ့|သော|က", "မဟုတ်|မမှန်"),
    "Catalan": Language(r"respost\w+", "opció|lletra", "correct[ae]|és la|meva|és|la|l'|el",
        "incorrecta|no"),
    "Cebuano": Language("tubag|husto|sakto", "", "akong|ang|mao|kay|nga", "dili"),
    "Croatian": Language(r"odgovor\w*|toč\w+|tač\w+|isprav\w+|pravil\w+", "opcija|slovo",
        "jest|moj|pod|je", r"pogreš\w+|netoč\w+|netač\w+|krivo|nije|ni"),
    "Czech": Language(r"odpověď|správn\w+", "možnost|varianta", "moje|pod|je|to",
        r"nesprávn\w+|špatn\w+|není|ne"),
    "Esperanto": Language("respondo|ĝusta", "opcio", "estas|mia|la", "malĝusta|ne"),
    "Estonian": Language(r"vastus\w*|õige", "variant|valik", "minu|see|on",
        "ei ole|pole|vale|ei"),
    "Filipino": Language("sagot|tama|tamang", "opsyon", "aking|ko'y|ang|ay|ko|na",
        "hindi|mali"),
    "Finnish": Language(r"vastau\w+|oike\w+", "vaihtoehto|kirjain", "minun|on|se",
        r"väär\w+|ei ole|ei"),
    "Galician": Language("resposta|correcta", "opción", "miña|é a|é|a", "incorrecta|non"),
    "Georgian": Language(r"პასუხ\w*|სწორ\w*", r"ვარიანტ\w*", "არის|ჩემი|ეს",
        r"არასწორ\w*|არა|არ"),
    "Greek": Language(r"απάντηση\w*|σωστ\w+", "επιλογή", "είναι|το|μου|η", "λάθος|όχι|δεν"),
    "Gujarati": Language("જવાબ|સાચો", "વિકલ્પ", "મારો|છે", "ખોટો|નથી"),
    "Haitian Creole": Language("repons|kòrèk", "", "mwen|lan|se|la", "pa"),
    "Hausa": Language(r"amsa\w*|daidai", "zaɓi", "ita ce|mai|ce|ne|ta", "kuskure|ba"),
    "Hebrew": Language("תשובה|התשובה|תשובתי|הנכונה|נכונה", "אופציה|אפשרות", "היא|הוא|שלי",
        "איננה|אינה|(?<!א)לא"),
    "Hungarian": Language(r"válasz\w*|helyes|megoldás", "lehetőség", "az|ez|a",
        "helytelen|nem"),
    "Icelandic": Language(r"svar\w*|rétt\w*", "valkostur", "mitt|það|er", "rangur|rangt|ekki"),
    "Irish": Language("fhreagra|freagra|ceart", "rogha", "is é|is|an|ná|mo|é", "mícheart|ní"),
    "Javanese": Language("jawaban|wangsulan|bener", "pilihan", "yaiku|sing|iku", "salah|dudu"),
    "Kannada": Language("ಉತ್ತರ|ಸರಿಯಾದ", "ಆಯ್ಕೆ", "ಆಗಿದೆ|ನನ್ನ|ವು", "ತಪ್ಪು|ಅಲ್ಲ"),
    "Kazakh": Language(r"жауа[пб]\w*|дұрыс", "нұсқа", "менің|бұл –|бұл", "емес|қате"),
    "Khmer": Language("ចម្លើយ|ត្រឹមត្រូវ", "ជម្រើស", "របស់ខ្ញុំ|ដែល|គឺ|ជា", "មិន"),
    "Lao": Language("ຄຳຕອບ|ຄໍາຕອບ|ຖືກຕ້ອງ|ຖືກ", "", "ແມ່ນ|ທີ່|ຄື", "ບໍ່"),
    "Latvian": Language(r"atbilde\w*|pareiz\w+", "variants", "mana|būtu|ir|tā",
        r"nepareiz\w+|nav|ne"),
    "Lithuanian": Language(r"atsakym\w+|teising\w+", "variantas", "mano|būtų|yra|tai",
        r"neteising\w+|nėra|ne"),
    "Macedonian": Language(r"одговор\w*|точ[еан]\w*|точни\w*", "", "мојот|е", r"неточ\w+|не"),
    "Malay": Language(r"jawapan\w*|betul|tepat", "pilihan",
        "adalah|paling|ialah|yang|saya|itu", "bukanlah|bukan|tidak|salah"),
    "Malayalam": Language("ഉത്തരം|ശരിയായ|ശരി", "", "എന്റെ|ആണ്", "തെറ്റ|അല്ല"),
    "Maltese": Language("tweġiba|it-tweġiba|tajba|t-tajba", "", "tiegħi|hija|hi",
        "mhijiex|mhix|mhux"),
    "Marathi": Language("उत्तर|बरोबर|योग्य", "पर्याय", "माझे|आहे|हे", "नाही|चूक"),
    "Mongolian": Language(r"хариул\w*|хариу\w*|зөв", "", "миний|бол|нь", "буруу|биш"),
    "Nepali": Language("उत्तर|सही", "विकल्प", "मेरो|हो", "होइन|गलत"),
    "Scandinavian": Language(r"svar\w*|rikti\w+|rigtig\w*|rätt\w*", r"alternativ\w*|valg",
        "mitt|det|är|er", "forkert|ikke|inte|feil|fel"),
    "Persian": Language("پاسخ|جواب|درست|صحیح", "گزینه", "می‌باشد|میباشد|است|من|ی|ٔ",
        "نادرست|نیست|غلط"),
    "Polish": Language(r"odpowied\w+|poprawn\w+|prawidłow\w+", "opcja", "jest|moja|to",
        r"błędn\w+|nie"),
    "Punjabi": Language("ਜਵਾਬ|ਜੁਆਬ|ਸਹੀ", "ਵਿਕਲਪ", "ਮੇਰਾ|ਹੈ", "ਨਹੀਂ|ਗਲਤ"),
    "Romanian": Language(r"răspuns\w*|corect\w*", "varianta|opțiunea", "este|meu|cel|e",
        r"incorect\w*|greșit\w*|nu"),
    "Serbian": Language(r"одговор\w*|тач[ан]\w*|исправ\w+", "опција", "јесте|мој|под|је",
        r"погреш\w+|нетач\w+|није"),
    "Sinhala": Language("පිළිතුර|නිවැරදි", "", "වන්නේ|මගේ|වේ", "(?<!නි)වැරදි|නොවේ"),
    "Slovak": Language(r"odpoveď|správn\w+", "možnosť", "moja|pod|je|to",
        r"nesprávn\w+|nie je|nie"),
    "Slovenian": Language(r"odgovor\w*|pravil\w+", "možnost", "moj|pod|je",
        r"nepravil\w+|napač\w+|ni"),
    "Somali": Language(r"jawaab\w*|saxda|saxsan", "", "waa|ah", "ma aha|maaha"),
    "Swahili": Language("jibu|sahihi", "chaguo", "lililo|langu|hilo|ni|la", "siyo|sio|si"),
    "Tamil": Language("பதில்|விடை|சரியான", "", "என்பது|ஆகும்|எனது", "இல்லை|அல்ல|தவறு"),
    "Telugu": Language("సమాధానం|జవాబు|సరైన", "ఎంపిక", "అవుతుంది|అనేది|నా", "తప్పు|కాదు"),
    "Thai": Language("คำตอบ|ถูกต้อง|ถูก", "ข้อ|ตัวเลือก", "ของฉัน|ของผม|เป็น|คือ|ที่|สุด",
        "ไม่ใช่|ไม่(?!ใช่)|ผิด"),
    "Ukrainian": Language(r"відповід\w+|правильн\w+|вірн\w+", "варіант", "буде|моя|це|є",
        r"неправильн\w+|невірн\w+|не"),
    "Urdu": Language("جواب|درست|صحیح", "آپشن", "میرا|ہے|یہ", "نہیں|غلط"),
    "Uzbek": Language(r"javob\w*|to['‘’ʻ]g['‘’ʻ]ri", "", "mening|bu",
        "noto['‘’ʻ]g['‘’ʻ]ri|emas"),
    "Welsh": Language("ateb|cywir", "opsiwn|dewis", "yw'r|ydy|yw|yr|fy|i", "anghywir|ddim|nid"),
    "Yoruba": Language("ìdáhùn|idahun|tọ́", "", "ni|tó|mi", "kì í ṣe|kii ṣe"),
    "Zulu": Language("impendulo|elungile", "", "ithi|yami|ngu|u", "akuyona|ayiyona"),
}
"""Beside those that ``lenient_answers`` reads; some of them more fully here."""

INSTEAD: Final = (
    "vaan|nego|već|ampak|temveč|hanem|vaid|baizik|baizik eta|ond|bali|kundi|sinó|senón|sed|ci|bet|"
    "него|туку|nýbrž|ale|heldur|balki|бірақ|melainkan|sebaliknya",
    "বরং|بلکہ|بلکه|არამედ|այլ|אלא|แต่เป็น|แต่")
"""What leads from a denied letter to the right one: words with spaces between them, and others."""


def judged(before: str, after: str) -> tuple[bool, bool]:
    """Whether a letter between these words is denied, and whether it is stated, by any language."""
    found = list(_judged(before, after))
    denied = any(denied for denied, _ in found)
    return denied, not denied and any(stated for _, stated in found)


def _judged(before: str, after: str) -> Iterator[tuple[bool, bool]]:
    around = f"{before} \n {after}"
    for language in LANGUAGES.values():
        if language.answers.search(around):
            yield (bool(language.denies.search(before) or language.denied.match(after)),
                   bool(language.states.search(before) or language.corrects.search(before)
                        or language.stated.match(after)))
