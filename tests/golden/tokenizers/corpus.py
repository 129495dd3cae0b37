"""The text that the tokenizers are trained on, and the strings whose ids are compared. All of it is made here."""

import random

WORDS = {
    "english": "the a of and to in is was for on that with as his they at be this from have or by one had not but what all were "
    "when we there can an your which their said if do will each about how up out them then she many some so these would other "
    "into has more her two like him see time could no make than first been its who now people my made over did down only way "
    "find use may water long little very after words called just where most know token adapter model prompt reverse sorted",
    "german": "der die das und ist nicht ein eine mit für auf sich von dem zu können Straße Größe über Äpfel schön heißt möchte",
    "french": "le la les et est dans une pour qui sur avec être déjà élève garçon où çà œuvre naïve forêt août",
    "spanish": "el los que por con una para niño mañana corazón también está año pingüino",
    "turkish": "bir ve için çok değil güzel ışık İstanbul şimdi ağaç",
    "polish": "jest się nie że łódź źródło żółty książka dziękuję",
    "vietnamese": "không được người tiếng Việt những một cũng",
    "russian": "и в не на я быть он что этот это с весь они мы человек время который ещё ёлка объект",
    "greek": "και το να είναι της που με για από ένα αυτό λόγος άνθρωπος",
    "hebrew": "של את על לא זה הוא אני כל עם שלום",
    "arabic": "في من على أن هذا التي كان ما مع السلام عليكم كتاب",
    "hindi": "है के में की और यह को से नमस्ते दुनिया हिन्दी क्या",
    "thai": "สวัสดี ครับ ภาษา ไทย เป็น ที่ และ น้ำ",
    "chinese": "的 一 是 不 了 在 人 有 我 他 这 中 大 来 上 国 你好 世界 模型 训练",
    "japanese": "の に は を た が で て と し こんにちは カタカナ 日本語 東京 ありがとう",
    "korean": "이 그 는 을 를 안녕하세요 한국어 사람 세계 모델",
}
PUNCTUATION = [".", ",", "!", "?", ";", ":", " -", "...", "'s", "'re", "'ll", "\"", ")", "/", "—", "。", "、", "؟"]
CODE = [
    "def add(a, b):\n    return a + b\n",
    "for (int i = 0; i < 10; ++i) {\n\tsum += x[i];\n}\n",
    "SELECT * FROM users WHERE id = 42;",
    "{\"name\": \"value\", \"list\": [1, 2, 3], \"ok\": true}",
    "https://example.org/path?x=1&y=2#top",
    "<div class=\"a\">text</div>",
]


def sentence(rng, language):
    words = WORDS[language].split()
    picked = [rng.choice(words) for _ in range(rng.randint(3, 12))]
    glue = "" if language in ("chinese", "japanese", "thai") and rng.random() < 0.8 else " "
    text = glue.join(picked)
    if rng.random() < 0.4:
        text = text[:1].upper() + text[1:]
    if rng.random() < 0.3:
        text += " " + str(rng.randint(0, 10 ** rng.randint(1, 7)))
    return text + rng.choice(PUNCTUATION)


def training_lines(count=6000, seed=20):
    rng = random.Random(seed)
    languages = list(WORDS)
    lines = []
    for _ in range(count):
        roll = rng.random()
        if roll < 0.45:
            lines.append(sentence(rng, "english"))
        elif roll < 0.95:
            lines.append(sentence(rng, rng.choice(languages)))
        else:
            lines.extend(rng.choice(CODE).split("\n"))
    return lines


BY_HAND = [
    "", " ", "  ", "   ", "\n", "\n\n", " \n ", "\t", "\t\t x", "\r\n", "a\r\nb\rc\n", " a", "a ", "  a  b   c    d     ", "\n a", "a\n b",
    "Hello", "Hello world", "Hello, world!", " Hello", "hello Hello HELLO hElLo", "the the the", "isn't it's we'll THEY'RE I'd you've 'S",
    "1", "12", "123", "1234", "12345678901234567890", "3.14159", "1,000,000.00", "2026-11-21T05:30:00Z", "1e-5 + 2E+10", "½ ¼ ² ³ ① Ⅳ ٣٤٥ १२३ 一二三",
    "a1b2c3", "x²+y²=z²", "C++20", "#include <vector>", "snake_case camelCase PascalCase kebab-case", "a_b__c___d", "__init__",
    "...", "…", "!!!???", "-- --- ----", "==== ####", "()[]{}<>", "\"'`´‘’“”«»", "@user #tag $5 100% a&b x*y", "\\n \\t \\\\", "/usr/local/bin",
    "café", "cafe\u0301", "ﬁ ﬂ ﬀ", "Å Å Å", "ｆｕｌｌｗｉｄｔｈ　１２３", "ñ n\u0303", "e\u0301\u0302\u0303\u0304", "\u0301", " \u0301a", "ẞ ß SS", "İ i ı I",
    "😀", "😀😀", " 😀 ", "a😀b", "👍🏽", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇫🇷", "❤️ ❤", "☃ ☃️ ✓ ✗ → ← ∀ ∃ ∞ ≠ ≤", "text 🤖 text 🚀text", "🀄🃏", "😀\u200d", "emoji: 🎉🎊🥳!",
    "你好，世界！", "我是一个模型。", "龘䶮𠀀𠮷", "こんにちは世界", "カタカナとひらがな", "東京タワー", "ｶﾀｶﾅ", "안녕하세요 세계", "각 각", "ᄀ가힣", "한국어입니다.",
    "Привет, мир!", "Ёлка ёж", "Ѐ ѓ Ԁ", "Γειά σου Κόσμε", "ΑΒΓ αβγ ς", "שלום עולם", "שָׁלוֹם", "السلام عليكم", "مَرْحَبًا", "فارسی: گچپژ", "नमस्ते दुनिया", "क्षत्रिय ज्ञ",
    "สวัสดีครับ", "น้ำใจ", "ភាសាខ្មែរ", "မြန်မာ", "አማርኛ", "ქართული", "Հայերեն", "ᏣᎳᎩ", "ᓀᐦᐃᔭᐍᐏᐣ", "𐌰𐌱𐌲", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "𓀀𓁐", "བོད་ཡིག", "ελληνικά και русский mixed 中文 עם العربية",
    "\u00a0", "a\u00a0b", "\u2003em\u2003space", "\u200b", "zero\u200bwidth", "a\u200cb\u200dc", "\u202eright to left\u202c", "\ufeffbom", "soft\u00adhyphen", "\u3000ideographic\u3000space",
    "line\u2028sep\u2029para", "a\u0085b", "tab\tand\vand\fand", "\u0000", "a\u0000b", "\u0001\u0002\u001f\u007f", "\u0080\u009f", "\ufffd", "a\ufffdb", "\ufffd\ufffd\ufffd", "\ufffe\uffff", "\U0010ffff", "\ue000", "\u1680\u180e",
    "▁", "▁▁", "▁Hello", "Hello▁world", " ▁ ", "Ġ", "Ġhello", "ĊĉÃ", "<0x41>", "<0x0A><0xFF>", "<0xE2><0x82><0xAC>", "##ing", "</w>", "@@",
    "<s>", "</s>", "<unk>", "<pad>", "<s>Hello</s>", "<s> Hello </s> again", "a<s>b</s>c", "Hello</s>", " <s>", "<s><s></s></s>", "<s>\n</s>\n", "< s >", "<S>", "<s", "s>",
    "<|begin_of_text|>", "<|begin_of_text|>Hello<|eot_id|>", "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>", "<|end_of_text|> x", "<|eot_id|><|eot_id|>", "<|begin_of_text", "<|unknown|>",
    "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\nHi!<|im_end|>\n<|im_start|>assistant\n", "<|endoftext|>", "a<|endoftext|>b", "<|im_start|><|im_end|>", "<|im_start|> <|im_end|> ",
    "<tool_call>\n{\"name\": \"f\"}\n</tool_call>", "x<tool_call>y", "<think>\nhm\n</think>\n\nyes",
    "[INST] Hello [/INST]", "<s>[INST] What is 2+2? [/INST] 4</s>[INST] And 3+3? [/INST]", "[INST]", "[INST]x[/INST]", "[ INST ]", "[TOOL_CALLS] [{\"name\"}]", "<custom>", "a<custom>b <custom> c",
    "<mask>", "x <mask> y", "x<mask>y", "  <mask>  ", "<sep>", "<sep>a<sep> b",
    "a" * 100, "ab" * 60, " " * 50, "\n" * 20, "=" * 80, "😀" * 12, "的" * 40, "ab " * 40, "xX" * 33 + " " + "9" * 33,
]


def strings(count=300, seed=21):
    """`count` different strings: those above, then mixtures of scripts, spaces, signs and specials."""
    rng = random.Random(seed)
    result = list(dict.fromkeys(BY_HAND))
    signs = ["😀", "👩‍🔬", "€", "𠮷", "é", "e\u0301", "\u200b", "\u00a0", "▁", "\t", "\n", "\n\n", "  ", "    ", "<s>", "</s>", "<unk>", "<|eot_id|>", "<|im_end|>", "[INST]", "\ufffd", "ሰላም", "ខ្មែរ"]
    while len(result) < count:
        parts = []
        for _ in range(rng.randint(1, 4)):
            roll = rng.random()
            if roll < 0.55:
                parts.append(sentence(rng, rng.choice(list(WORDS))))
            elif roll < 0.85:
                parts.append(rng.choice(signs))
            elif roll < 0.93:
                parts.append("".join(chr(rng.choice([rng.randint(0x20, 0x7E), rng.randint(0xA1, 0x24F), rng.randint(0x370, 0x52F),
                                                     rng.randint(0x4E00, 0x9FFF), rng.randint(0x1F300, 0x1F64F)]))
                                     for _ in range(rng.randint(1, 12))))
            else:
                parts.append(rng.choice(CODE))
        text = rng.choice(["", " ", " "]).join(parts)
        if text not in result:
            result.append(text)
    return result
