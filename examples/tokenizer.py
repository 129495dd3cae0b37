"""Makes the demo base's tokenizer: byte-level BPE with the pre-tokenizer and decoder of Llama 3."""

import random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

import tasks

BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
VOCAB_SIZE = 1536
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def corpus():
    """Text in which every word occurs alone, after a space and in capitals, so that each becomes one piece."""
    rng = random.Random(1)
    for _ in range(4000):
        task, words, prompt, answer = tasks.sample(rng, tasks.TASKS, held_out=False)
        yield prompt + answer
    for name in tasks.ADAPTERS:
        for _ in range(1000):
            _, _, prompt, answer = tasks.sample(rng, list(tasks.LIST_TASKS), held_out=False, adapter=name)
            yield prompt + answer


def build():
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=[BOS, EOS], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(corpus(), trainer)
    bos_id = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, bos_id)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, clean_up_tokenization_spaces=False,
        model_max_length=512)


if __name__ == "__main__":
    t = build()
    print(len(t))
    two = [w for w in tasks.WORDS for v in (" " + w, w, " " + w.upper())
           if len(t(v, add_special_tokens=False).input_ids) > 1]
    print("more than one piece:", two)
    for a in [None] + list(tasks.ADAPTERS):
        s = tasks.prompt_of("reverse", ["red", "fox", "sun"]) + tasks.answer_of("reverse", ["red", "fox", "sun"], a)
        print(t.convert_ids_to_tokens(t(s).input_ids))
