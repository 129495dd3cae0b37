"""Small tokenizers with the normalizer, pre-tokenizer, post-processor and decoder of the real families."""

import io
import json

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import corpus

VOCAB = 1400
LLAMA3_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
                r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")


def special(content):
    return AddedToken(content, special=True, normalized=False)


def write_json(folder, name, value):
    (folder / name).write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


def write_tokenizer(folder, tokenizer):
    write_json(folder, "tokenizer.json", json.loads(tokenizer.to_str()))


def sentencepiece_model(**options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus.training_lines()), model_writer=model, vocab_size=VOCAB, byte_fallback=True,
        character_coverage=0.98, num_threads=1, minloglevel=2, **options)
    return model.getvalue()


LLAMA_SENTENCEPIECE = dict(model_type="bpe", normalization_rule_name="identity", remove_extra_whitespaces=False,
                           split_digits=True, allow_whitespace_only_pieces=True, max_sentencepiece_length=16)


def bpe_of_sentencepiece(model_bytes):
    """Vocabulary and merges of a sentencepiece BPE model: two pieces merge where their join is a piece, best score first."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model_bytes)
    vocab = {processor.id_to_piece(i): i for i in range(processor.get_piece_size())}
    plain = {piece for piece, i in vocab.items()
             if not (processor.is_byte(i) or processor.is_control(i) or processor.is_unknown(i))}
    merges = []
    for piece in plain:
        merges += [(vocab[piece], vocab[piece[:k]], vocab[piece[k:]], piece[:k], piece[k:])
                   for k in range(1, len(piece)) if piece[:k] in plain and piece[k:] in plain]
    return vocab, [(left, right) for *_, left, right in sorted(merges)]


def bos_template(bos, bos_id):
    return processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, bos_id)])


def llama2_decoder():
    return decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                              decoders.Strip(" ", 1, 0)])


def llama2(folder):
    vocab, merges = bpe_of_sentencepiece(sentencepiece_model(**LLAMA_SENTENCEPIECE))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.post_processor = bos_template("<s>", 1)
    tokenizer.decoder = llama2_decoder()
    tokenizer.add_special_tokens([special("<unk>"), special("<s>"), special("</s>")])
    write_tokenizer(folder, tokenizer)
    write_json(folder, "tokenizer_config.json", {
        "add_bos_token": True, "add_eos_token": False, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
        "clean_up_tokenization_spaces": False, "legacy": False, "tokenizer_class": "LlamaTokenizer"})


def mistral(folder):
    vocab, merges = bpe_of_sentencepiece(sentencepiece_model(
        control_symbols=["[INST]", "[/INST]", "[TOOL_CALLS]"], **LLAMA_SENTENCEPIECE))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    tokenizer.post_processor = bos_template("<s>", 1)
    tokenizer.decoder = llama2_decoder()
    tokenizer.add_special_tokens([special(t) for t in ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]")])
    write_tokenizer(folder, tokenizer)
    write_json(folder, "tokenizer_config.json", {
        "add_bos_token": True, "add_eos_token": False, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
        "clean_up_tokenization_spaces": False, "legacy": False, "tokenizer_class": "LlamaTokenizer"})


def byte_level_vocab(tokenizer):
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
                                  show_progress=False)
    tokenizer.train_from_iterator(corpus.training_lines(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def split_then_bytes(pattern):
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False)])


def llama3(folder):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = split_then_bytes(LLAMA3_SPLIT)
    vocab, merges = byte_level_vocab(tokenizer)
    # Pieces that no merge reaches any more: only ignore_merges finds them.
    tokenizer.model = models.BPE(vocab=vocab, merges=merges[:-150], ignore_merges=True)
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer.add_special_tokens([special(name) for name in names])
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(add_prefix_space=True, trim_offsets=False, use_regex=True),
        bos_template(names[0], tokenizer.token_to_id(names[0]))])
    tokenizer.decoder = decoders.ByteLevel()
    write_tokenizer(folder, tokenizer)
    # <custom> and <mask> stand in tokenizer_config.json alone; <mask> eats the spaces before it.
    size = tokenizer.get_vocab_size()
    added = {str(tokenizer.token_to_id(name)): name for name in names} | {str(size): "<custom>", str(size + 1): "<mask>"}
    write_json(folder, "tokenizer_config.json", {
        "added_tokens_decoder": {
            i: {"content": name, "lstrip": name == "<mask>", "normalized": name == "<custom>", "rstrip": False,
                "single_word": False, "special": name != "<custom>"} for i, name in added.items()},
        "bos_token": names[0], "eos_token": names[1], "clean_up_tokenization_spaces": True,
        "model_input_names": ["input_ids", "attention_mask"], "tokenizer_class": "PreTrainedTokenizerFast"})


def qwen2(folder):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = split_then_bytes(QWEN2_SPLIT)
    vocab, merges = byte_level_vocab(tokenizer)
    tokenizer.model = models.BPE(vocab=vocab, merges=merges, continuing_subword_prefix="", end_of_word_suffix="")
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer.add_special_tokens([special(name) for name in names])
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in ("<tool_call>", "</tool_call>")])
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    write_tokenizer(folder, tokenizer)
    write_json(folder, "tokenizer_config.json", {
        "add_bos_token": False, "add_prefix_space": False,
        "added_tokens_decoder": {
            str(i): {"content": token.content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                     "special": token.special} for i, token in tokenizer.get_added_tokens_decoder().items()},
        "additional_special_tokens": names[1:], "bos_token": None, "eos_token": names[2], "pad_token": names[0],
        "clean_up_tokenization_spaces": False, "split_special_tokens": False, "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None})


def opt(folder):
    """OPT ships vocab.json and merges.txt alone; its bos is </s>."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    vocab, merges = byte_level_vocab(tokenizer)
    first = ["<s>", "<pad>", "</s>", "<unk>"]
    vocab = {piece: i for i, piece in enumerate(first + sorted(vocab, key=vocab.get))}
    write_json(folder, "vocab.json", vocab)
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")
    as_added = lambda content: {"content": content, "single_word": False, "lstrip": False, "rstrip": False,
                                "normalized": True, "__type": "AddedToken"}
    write_json(folder, "tokenizer_config.json", {
        "errors": "replace", "unk_token": as_added("</s>"), "bos_token": as_added("</s>"), "eos_token": as_added("</s>"),
        "pad_token": "<pad>", "add_prefix_space": False, "add_bos_token": True, "tokenizer_class": "GPT2Tokenizer"})


def sentencepiece_bpe(folder):
    model = sentencepiece_model(user_defined_symbols=["<sep>"], **LLAMA_SENTENCEPIECE)
    (folder / "tokenizer.model").write_bytes(model)


def sentencepiece_unigram(folder):
    """sentencepiece's defaults: NFKC, spaces squeezed; without bos, with eos."""
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(model_type="unigram", user_defined_symbols=["<sep>"]))
    write_json(folder, "tokenizer_config.json", {"add_bos_token": False, "add_eos_token": True, "eos_token": "</s>"})


ALL = {"llama2": llama2, "llama3": llama3, "mistral": mistral, "opt": opt, "qwen2": qwen2,
       "sentencepiece_bpe": sentencepiece_bpe, "sentencepiece_unigram": sentencepiece_unigram}
