"""How well text reads, by which its encoding is guessed.

In: text that was decoded by one of `CANDIDATES`. Out: how much of it reads like a language that is written so
(`plausible`), by its letters, syllables and usual characters.
"""

from __future__ import annotations

import re
from functools import lru_cache

#: The non-ASCII letters of the languages of Europe, by the encodings that they are written in. A word is of one.
_WESTERN = (
    "àâæçéèêëîïôœùûüÿ", "äöüßéà", "áéíóúüñ", "áâãàçéêíóôõúü", "àèéìíîòóùú", "åäöéàü", "æøåéèêóòôü", "äöåšž",
    "áðéíóúýþæö", "ëïéèöüáóê", "àçéèíïóòúü", "äöõüšž", "ëç", "âêîôû",
)  # fmt: skip
_CENTRAL = (
    "áčďéěíňóřšťúůýž", "áäčďéíĺľňóôŕšťúýž", "ąćęłńóśźż", "áéíóöőúüű", "ăâîşţșț", "čćđšž", "äöüßé", "çéëâîô",
)  # fmt: skip
_TURKISH = ("çğıöşüâîû", *(a for a in _WESTERN if "þ" not in a))
_BALTIC = ("ąčęėįšųūž", "āčēģīķļņšūž", "äöõüšž", "äöüßé")
_GROUPS = {"cp1250": _CENTRAL, "iso8859_2": _CENTRAL, "cp852": _CENTRAL, "cp1254": _TURKISH, "cp1257": _BALTIC}
#: What no language with those letters writes, but another one in the wrong encoding: in Portuguese, ã stands before o,
#: e, s or the end, and õ before e (in Estonian in the first syllable); è stands before no vowel, ì and ù stand last;
#: Icelandic words do not begin with ð.
_NEVER = re.compile(
    r"[aeiouyáéíóúäöü].*õ[^e]|õ |ã[^oe s]|è[aeiou]|æ[aeiou]|[ìù][a-z]|œ[^cdfilnstu]"
    r"|\bð|þ\b|þ[^aáeéiíoóuúyýöærjv]|[’']þ"
)
#: Signs that may stand before, after and within a word.
_BEFORE, _AFTER, _WITHIN = "“‘„‚‹¿¡£€¥§©°№–—…·•", "”’“›™®©°ºª½¼¾¹²³…€¢–—·•", "’‘·–—…­×"
_WORD = re.compile(r"[^\s!-&(-,./:-@\[-`{-~]+")  # at blanks and ASCII signs but ' and -

#: Letters by frequency in running text: the first ten, then the others.
_SCRIPTS = {
    "Cyrillic": ("оеаинтсрвл", "кмдпуяыьгзбчйхжшюцщэфъёіїєґўђјљњћџѓќѕ"),
    "Greek": ("αοιετσνηυρ", "πκμλςδγωχθφβξζψάέήίόύώϊϋΐΰ"),
    "Hebrew": ("יוהלארתבשמ", "נדעפחכקגטצסזםןץףך"),
    "Arabic": ("اليمونترب", "ةعدسفهكقحجشصطخذزضغثظءآأؤإئىپچگژ"),
    "Thai": ("านรอกเงมยลวดต", "ทสะปบคหแจพชขใไโผซธณฉฟถภศษญฐฃฅฆฌฎฏฑฒฝฬฮฤๅๆฯฺ๏"),
}
#: Syllables: a vowel in front, a consonant, a vowel above or below, a tone, a vowel behind.
_THAI = re.compile("(?:[เแโใไ]?[ก-ฮ][ัิีึืฺุู]?[็่้๊๋์ํ]?[ะาำๅ]*[ๆฯ]?)+")
#: Marks that follow letters: of Thai, and Arabic and Hebrew points.
_MARKS = frozenset("ัิีึืุู็่้๊๋์ํำ") | {chr(c) for c in (*range(0x64B, 0x653), *range(0x5B0, 0x5C8))}

#: Frequent characters; enough of each language that most of a title is among them.
_CHINESE = (
    "的一是不了人我在有他这中大来上国个到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可她里后小么心多天而能"
    "好都然没日于起还发成事只作当想看文无开手十用主行方又如前所本见经头面公同三已老从动两长知民样现分将外但身些与高意进"
    "把法此实回二理美点月明其种声全工己话儿者向情部正名定女问力机给等几很业最间新什打便位因重被走电四第门相次东政海口使"
    "教西再平真听世气信北少关并内加化由却代军产入先山五太水万市眼体别处总才场师书比住员九笑性通目华报立马命张活难神数件"
    "安表原车白应路期叫死常提感金何更反合放做系计或司利受光王果亲界及今京务制解各任至清物台象记边共风战干接它许八特觉望"
    "直服毛林题建南度统色字请交爱让认算论百吃义科怎元社术结六功指思非流每青管夫连远资队跟带花快条院变联言权往展该领传近"
    "留红治决周保达办运武半候七必城父强步完革深区即求品士转量空甚众技轻程告江语英基派满式李息写呢识极令黄德收脸钱党倒未"
    "持取设始版双历越史商千片容研像找友孩站广改议形委早房音火际则首单据导影失拿网香似斯专石若兵弟谁校读志飞观争究包组造"
    "落视济喜离虽坏杨乃尔拉克罗巴亚尼布普希洛维奇卡伊罗兰哈瓦迪塞纳诺伦莱丽莎蒂娜桑托贝鲁米兹泰鬼龙虎剑侠客刀魔梦雪雨云"
    "夜星球杀狂恋缘泪狼鱼鸟猫狗哥姐妹妈爸帝皇宫传奇英雄末暗黑血灵魂幻异险逃追击警察谍恶怪惊恐怖秘密游戏歌舞画春秋冬夏"
)
_TAIWANESE = (
    "的一是不了人我在有他這中大來上國個到說們為子和你地出道也時年得就那要下以生會自著去之過家學對可她裡後小麼心多天而能"
    "好都然沒日於起還發成事只作當想看文無開手十用主行方又如前所本見經頭面公同三已老從動兩長知民樣現分將外但身些與高意進"
    "把法此實回二理美點月明其種聲全工己話兒者向情部正名定女問力機給等幾很業最間新什打便位因重被走電四第門相次東政海口使"
    "教西再平真聽世氣信北少關並內加化由卻代軍產入先山五太水萬市眼體別處總才場師書比住員九笑性通目華報立馬命張活難神數件"
    "安表原車白應路期叫死常提感金何更反合放做系計或司利受光王果親界及今京務制解各任至清物台象記邊共風戰干接它許八特覺望"
    "直服毛林題建南度統色字請交愛讓認算論百吃義科怎元社術結六功指思非流每青管夫連遠資隊跟帶花快條院變聯言權往展該領傳近"
    "留紅治決周保達辦運武半候七必城父強步完革深區即求品士轉量空甚眾技輕程告江語英基派滿式李息寫呢識極令黃德收臉錢黨倒未"
    "持取設始版雙歷越史商千片容研像找友孩站廣改議形委早房音火際則首單據導影失拿網香似斯專石若兵弟誰校讀志飛觀爭究包組造"
    "落視濟喜離雖壞楊乃爾拉克羅巴亞尼布普希洛維奇卡伊蘭哈瓦迪塞納諾倫萊麗莎蒂娜桑托貝魯米茲泰鬼龍虎劍俠客刀魔夢雪雨雲"
    "夜星球殺狂戀緣淚狼魚鳥貓狗哥姐妹媽爸帝皇宮英雄末暗黑血靈魂幻異險逃追擊警察諜惡怪驚恐怖祕密遊戲歌舞畫春秋冬夏悲"
)
_JAPANESE = (
    "日一国会人年大十二本中長出三同時政事自行社見月分議後前民生連五発間対上部東者党地合市業内相方四定今回新場金員九入選"
    "立開手米力学問高代明実円関決子動京全目表戦経通外最言氏現理調体化田当八六約主題下首意法不来作性的要用制治度務強気小"
    "七成期公野協取都和統以機平総加山思家話世受区領多県続進正安設保改数記院女初北午指権心界支第産結百派点教報済書府活原"
    "先共得解名交資予川向際査勝面委告軍文反元重近千考判認画海参売利組知案道信策集在件団別物側任引使求所次水半品昨論計死"
    "官増係感特情投示変打男基私各始島直両朝革価式確村提運終挙果西勢減台広容必応演電歳住争談能無再位置企真流格有疑口過局"
    "少放税検町常校料沢裁状工建語球営空職証土与急止送援供可役構木割聞身費付施切由説転食比難防補車優夫研収断井何南石足違"
    "消境神番規術護展態導鮮備宅害配副算視条幹独警宮究育席輸訪楽起万着乗店述残想線率病農州武声質念待試族象銀域助労例衛然"
    "早張映限親額監環験追審商葉義伝働形景落好退準賀訴辺造英被株頭技低毎医復仕去姿味負閣失移差衆個門写評課末守若脳極種美"
    "命含福蔵量望松非撃核観察段横型白深字答夜製票音申様財港識注呼達隣千尋姫侍猫愛恋花火魔鬼滅刃龍竜星雪風雲空夢剣伝説紅"
)
_KOREAN = (
    "이다는의에고가을하지기한를도사리로어나자아서인대시은들해일만라그정보여스수전부으상제주구게마우장과비오았것있했니조적동"
    "원신소트거없면중모공무선세명국성내요안위말미와연치생방실드개화경회문물더금음런각천분영유산관재계러간람때번남강심살점직호"
    "단양임속진필름길집피포터프카레크키토타티파클킬플픽투발반바르먼맨매메머미버베벨별불블빛빠사삼새색설섬손송술슬승식씨악야약"
    "억언얼업왕외욕용운울웃워원월육을음응의입잃작잔잡저절젊정족좋죄죽줄즈직질짝차찬참창채책처철첫청체초총최추축출춘취측층친"
    "칠침코쿠쿵크큰탄탈태테통특판팔패퍼펜편평폭표풍품하학할함합항행향허험헤혁현혈형혜홀환황후휴흑희히괴날밤봄겨울여름랑랜램"
)
_EAST = {"gb18030": _CHINESE, "cp950": _TAIWANESE, "cp932": _JAPANESE, "euc_jp": _JAPANESE, "cp949": _KOREAN}


@lru_cache(1 << 16)
def _frequent(encoding: str) -> frozenset[str]:
    return frozenset(_EAST[encoding])


@lru_cache(1 << 16)
def _east(encoding: str, char: str) -> float | None:
    """How usual `char` is in a language that is written with `encoding`; None for signs, which say nothing."""
    code = ord(char)
    if 0x3000 <= code <= 0x303F or 0xFF01 <= code <= 0xFF5E or char in "‘’“”…—–·―～•×°":
        return None
    if char in _frequent(encoding):
        return 1.0
    if encoding == "gb18030" and char in _frequent("cp950"):
        return 0.7
    japanese = encoding in ("cp932", "euc_jp")
    if 0x3041 <= code <= 0x30FE:
        return 1.0 if japanese else 0.0
    if 0xFF61 <= code <= 0xFF9F:
        return 0.2 if encoding == "cp932" else 0.0
    if not (0x4E00 <= code <= 0x9FFF or 0xAC00 <= code <= 0xD7A3):
        return 0.1 if code < 0x2600 else 0.0
    table, last = {
        "gb18030": ("gb2312", 0xD7),
        "cp950": ("big5", 0xC6),
        "cp932": ("euc_jp", 0xCF),
        "euc_jp": ("euc_jp", 0xCF),
        "cp949": ("euc_kr", 0xC8),
    }[encoding]
    try:
        written = char.encode(table)
    except UnicodeEncodeError:
        return 0.0
    return 0.6 if len(written) == 2 and written[0] <= last else 0.1


def _east_asian(encoding: str, text: str) -> float:
    total, count = 0.0, 0
    for found in re.finditer(r"[^\x00-\x7f]+", text):
        run = found.group()
        if len(run) == 1 and run.isalpha():
            around = text[max(found.start() - 1, 0) : found.start()] + text[found.end() : found.end() + 1]
            if any(c.isalpha() for c in around):  # `Mis閞ables`
                count += 1
                continue
        for char in run:
            usual = _east(encoding, char)
            if usual is not None:
                total, count = total + usual, count + 1
    return total / count if count else 0.5


@lru_cache(1 << 16)
def _latin_word(word: str, alphabets: tuple[str, ...]) -> bool | None:
    """Whether `word` reads like one of a language with one of these alphabets; None for ASCII with signs."""
    if re.search(r"[^\x00-\x7f“”„‘’»][¹²³]", word):
        return False  # Polish ł after another letter of its own; `Alien³` is right
    word = word.lstrip(_BEFORE + "'-").rstrip(_AFTER + "'-")
    letters = word
    for sign in _WITHIN:
        letters = letters.replace(sign, " ")
    if letters.isascii():
        return None
    for piece in re.split(r"[ '-]+", letters):
        foreign = [c for c in piece if not c.isascii()]
        if not foreign:
            continue
        kind = frozenset("ı" if c == "İ" else c.lower() for c in foreign)
        if not any(kind.issubset(alphabet) for alphabet in alphabets):
            return False
        if len(foreign) == len(piece) and (len(piece) > 1 or not kind.issubset("àáéèóåöøúíæ")):
            return False
        if re.search(r"[^\x00-\x7f]{3}", piece):
            return False
        if not piece.isupper() and any(c.isupper() for c in piece[1:] if not c.isascii()):
            return False
        if _NEVER.search(piece.lower() + " "):
            return False
    return True


def words_of(text: str) -> set[str]:
    """The words that are not ASCII. A pair of « » in one line is quotation; one alone stays a part of its word."""
    found: set[str] = set()
    for line in text.split("\n"):
        if not line.isascii():
            if line.count("«") == line.count("»"):
                line = line.replace("«", " ").replace("»", " ")
            found.update(w for w in _WORD.findall(line) if not w.isascii())
    return found


def _latin(encoding: str, text: str) -> float:
    words = words_of(text)
    alphabets = _GROUPS.get(encoding, _WESTERN)
    judged = [g for w in words if (g := _latin_word(w, alphabets)) is not None]
    return sum(judged) / len(judged) if judged else 0.98  # only quotation marks and dashes


def _sane_case(word: str) -> bool:
    return word.islower() or word.isupper() or word[1:].lower() == word[1:] or word.lower() == word.upper()


def _script(name: str, text: str) -> float:
    frequent, others = _SCRIPTS[name]
    letters, top = frozenset(frequent + others), frozenset(frequent)
    good = count = usual = total = 0
    for word in words_of(text):
        if name == "Greek" and word[0] == "’":  # Ά in the other encoding of Greek
            count += 1
            continue
        word = word.strip("“‘„‚‹”’›…–—·•'-")
        if not word or word.isascii():
            continue
        pieces = [p for p in re.split(r"[’'\-–—0-9]+", word) if p]
        fits = all(set(p.lower()) - _MARKS <= letters and p[0] not in _MARKS and _sane_case(p) for p in pieces)
        if name == "Greek":
            fits = fits and not re.search("ς.", word)
        elif name == "Thai":
            fits = fits and all(_THAI.fullmatch(p) for p in pieces)
        count, good = count + 1, good + fits
        small = [c for c in word.lower() if c not in _MARKS]
        usual, total = usual + sum(c in top for c in small), total + len(small)
    if not count or not total:
        return 0.5
    return good / count * min(1.0, max(0.0, usual / total - 0.25) / 0.3)


#: The encodings that are looked for, the more usual of two with the same reading first.
LATIN = (
    "cp1252", "latin-1", "iso8859_15", "mac_roman", "cp850", "cp1250", "iso8859_2", "cp852", "cp1254", "cp1257",
)  # fmt: skip
_OTHER = {
    "cp1251": "Cyrillic", "koi8_r": "Cyrillic", "koi8_u": "Cyrillic", "iso8859_5": "Cyrillic", "cp866": "Cyrillic",
    "mac_cyrillic": "Cyrillic", "cp1253": "Greek", "iso8859_7": "Greek", "cp1255": "Hebrew", "iso8859_8": "Hebrew",
    "cp1256": "Arabic", "iso8859_6": "Arabic", "cp874": "Thai",
}  # fmt: skip
CANDIDATES = (*LATIN, *_OTHER, *_EAST)


def plausible(encoding: str, text: str) -> float:
    """How much of the non-ASCII in `text` reads like a language that is written in `encoding`, of 1."""
    if encoding in _EAST:
        return _east_asian(encoding, text)
    if encoding in _OTHER:
        return _script(_OTHER[encoding], text)
    return _latin(encoding, text)
