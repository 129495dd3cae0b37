"""Writes the tokenizers of train.py and what transformers and sentencepiece make of corpus.py's strings.

Run:  $(scripts/golden-env) tests/golden/tokenizers/generate.py      (--keep: leaves the trained tokenizers as they are)

strings.json   the strings, shared by all folders
<name>/        the tokenizer's files, and cases.json:
  before, after   the ids that add_special_tokens puts around a text
  strings         for each string: ids (without before and after); shown (decoded, special tokens skipped) and all
                  (decoded with them) where they differ from the string; pieces: the bytes of text that each id of
                  before + ids + after settles, or null where the library's stream gives up
  sequences       ids that no text has: random ones and cut ones, most with broken bytes; shown and all
"""

import json
import pathlib
import random
import sys

import sentencepiece
from tokenizers.decoders import DecodeStream
from transformers import GPT2Tokenizer, LlamaTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer

import corpus
import train

HERE = pathlib.Path(__file__).resolve().parent


class Transformers:
    def __init__(self, cls, folder):
        self.tokenizer = cls.from_pretrained(folder)
        self.size = len(self.tokenizer)

    def encode(self, text, special):
        return self.tokenizer(text, add_special_tokens=special)["input_ids"]

    def decode(self, ids, skip):
        return self.tokenizer.decode(ids, skip_special_tokens=skip)

    def pieces(self, ids):
        stream, result = DecodeStream(skip_special_tokens=True), []
        try:
            for i in ids:
                piece = stream.step(self.tokenizer.backend_tokenizer, i)
                result.append(len((piece or "").encode()))
        except Exception:  # Its stream cannot go on after some broken bytes.
            return None
        return result

    def piece(self, i):
        return self.tokenizer.convert_ids_to_tokens(i)


class SentencePiece:
    def __init__(self, folder, before, after):
        self.processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        self.size = self.processor.get_piece_size()
        self.before, self.after = before, after

    def encode(self, text, special):
        ids = self.processor.encode(text)
        return self.before + ids + self.after if special else ids

    def decode(self, ids, skip):
        return self.processor.decode(ids)

    def pieces(self, ids):
        """It has no stream: the text so far, whenever that is whole."""
        result, given = [], 0
        for k in range(1, len(ids) + 1):
            text = self.processor.decode(ids[:k])
            size = given if text.endswith("\ufffd") else len(text.encode())
            result.append(size - given)
            given = size
        return result

    def piece(self, i):
        return self.processor.id_to_piece(i)


def open_oracle(name, folder):
    if name == "sentencepiece_bpe":
        return SentencePiece(folder, [1], [])
    if name == "sentencepiece_unigram":
        return SentencePiece(folder, [], [2])
    classes = {"mistral": LlamaTokenizer, "opt": GPT2Tokenizer, "qwen2": Qwen2Tokenizer}
    return Transformers(classes.get(name, PreTrainedTokenizerFast), folder)


def around(oracle):
    plain, special = oracle.encode("a", False), oracle.encode("a", True)
    for start in range(len(special) - len(plain) + 1):
        if special[start:start + len(plain)] == plain:
            return special[:start], special[start + len(plain):]
    raise ValueError("add_special_tokens does more than put ids around a text")


def string_case(oracle, text, before, after):
    ids = oracle.encode(text, False)
    whole = oracle.encode(text, True)
    assert whole == before + ids + after, text
    case = {"ids": ids}
    for key, skip in (("shown", True), ("all", False)):
        decoded = oracle.decode(whole, skip)
        if decoded != text:
            case[key] = decoded
    case["pieces"] = oracle.pieces(whole)
    return case


def sequence_cases(oracle, texts, count=150, seed=22):
    rng = random.Random(seed)
    pieces = [oracle.piece(i) for i in range(oracle.size)]
    broken = [i for i, piece in enumerate(pieces)  # Byte pieces, or single characters of the byte-level alphabet.
              if (piece.startswith("<0x") and len(piece) == 6) or (len(piece) == 1 and ord(piece) > 0x7E)]
    cases = []
    for k in range(count):
        if k % 3 == 0:  # A text's ids, cut at both ends.
            ids = oracle.encode(rng.choice(texts), True)
            begin = rng.randrange(len(ids) + 1)
            ids = ids[begin:begin + rng.randint(1, 20)]
        else:
            share = 0.8 if k % 3 == 1 else 0.2
            ids = [rng.choice(broken) if rng.random() < share else rng.randrange(oracle.size)
                   for _ in range(rng.randint(1, 24))]
        shown, whole = oracle.decode(ids, True), oracle.decode(ids, False)
        cases.append({"ids": ids, "shown": shown} | ({"all": whole} if whole != shown else {}))
    return cases


def main():
    texts = corpus.strings()
    train.write_json(HERE, "strings.json", texts)
    for name, write in train.ALL.items():
        folder = HERE / name
        folder.mkdir(exist_ok=True)
        if "--keep" not in sys.argv:
            write(folder)
        oracle = open_oracle(name, folder)
        before, after = around(oracle)
        cases = {"size": oracle.size, "before": before, "after": after,
                 "strings": [string_case(oracle, text, before, after) for text in texts],
                 "sequences": sequence_cases(oracle, texts)}
        train.write_json(folder, "cases.json", cases)
        given_up = sum(case["pieces"] is None for case in cases["strings"])
        print(f"{name}: {oracle.size} ids, {len(texts)} strings ({given_up} without a stream), around: {before} {after}")


if __name__ == "__main__":
    main()
