"""The prefix cache over the wire: what is found computed, what it changes (nothing), what it counts."""

import concurrent.futures
import json

import grpc
from lorad.v1 import adapters_pb2
from support import generate, refusal, wait_until

PROMPT = [7 + i * 13 % 80 for i in range(70)]


def ask(daemon, prompt=PROMPT, **options):
    options.setdefault("max_tokens", 12)
    return generate(daemon, prompt, ignore_eos=True, logprobs=2, **options)


def said(answer, index=0):
    return answer.text[index], answer.token_ids[index], [token.logprob for token in answer.logprobs[index]]


def test_a_second_identical_request_is_answered_the_same_from_the_cache(start_daemon):
    daemon = start_daemon()
    first = ask(daemon)
    second = ask(daemon)
    assert first.usage[0].cached_tokens == 0
    assert second.usage[0].cached_tokens == 64
    assert second.usage[0].prompt_tokens == 70
    assert said(second) == said(first)
    assert daemon.metric("vllm:prefix_cache_queries_total") == 140
    assert daemon.metric("vllm:prefix_cache_hits_total") == 64
    assert daemon.metric("lorad_prefix_cache_blocks") == 5  # of 70 + 11 computed tokens
    wait_until(lambda: daemon.metric("lorad_pool_pages", owner="kv") == 0)
    assert daemon.metric("lorad_pool_pages", owner="cached") > 0
    assert daemon.stop() == 0


def test_off_computes_everything(start_daemon):
    daemon = start_daemon("--prefix-cache=off")
    first, second = ask(daemon), ask(daemon)
    assert second.usage[0].cached_tokens == 0
    assert said(second) == said(first)
    assert daemon.metric("vllm:prefix_cache_queries_total") == 0
    assert daemon.metric("lorad_pool_pages", owner="cached") == 0
    assert daemon.stop() == 0


def test_a_conversation_goes_on_from_its_answer(start_daemon):
    daemon = start_daemon()
    first = ask(daemon, max_tokens=40)
    following = PROMPT + list(first.token_ids[0]) + [3, 4, 5]
    assert ask(daemon, following).usage[0].cached_tokens == (70 + 39) // 16 * 16
    assert daemon.stop() == 0


def test_sequences_of_one_request_share_its_prompt(start_daemon):
    daemon = start_daemon()
    answer = ask(daemon, n=4, temperature=1.0, seed=5)
    assert [usage.cached_tokens for usage in answer.usage] == [0, 64, 64, 64]
    off = start_daemon("--prefix-cache=off")
    same = ask(off, n=4, temperature=1.0, seed=5)
    assert [said(answer, i) for i in range(4)] == [said(same, i) for i in range(4)]
    for each in (daemon, off):
        assert each.stop() == 0


def test_an_answer_ended_by_a_stop_string_tells_of_the_cache_too(start_daemon):
    daemon = start_daemon()
    stop = ask(daemon).text[0].split()[3]
    assert ask(daemon, stop=[stop]).usage[0].cached_tokens == 64
    assert daemon.stop() == 0


def test_prompt_logprobs_are_all_told(start_daemon):
    daemon = start_daemon()
    first = ask(daemon, prompt_logprobs=0)
    ask(daemon)
    second = ask(daemon, prompt_logprobs=0)
    assert second.usage[0].cached_tokens == 0
    assert len(second.prompt_logprobs[0]) == 70
    assert [t.logprob for t in second.prompt_logprobs[0]] == [t.logprob for t in first.prompt_logprobs[0]]
    assert daemon.stop() == 0


def test_a_name_that_is_replaced_answers_with_its_new_weights_and_back_again(start_daemon, golden, cases):
    """Golden tokens of the adapter that the name means, though its prompt is cached with the other one's weights."""
    daemon = start_daemon()
    one, two = cases["q_v-40"], cases["all_linear-40"]

    def serve(adapter):
        folder = golden / "llama3/adapters" / adapter
        daemon.adapters.LoadAdapter(adapters_pb2.LoadAdapterRequest(name="tenant", path=str(folder), replace=True))

    def tokens(case):
        answer = generate(daemon, case["prompt"], adapter="tenant", max_tokens=case["max_tokens"], ignore_eos=True)
        return answer.token_ids[0], answer.usage[0].cached_tokens

    for case, other in [(one, two), (two, one), (one, two), (two, one)]:
        serve(case["adapter"])
        assert tokens(case) == (case["tokens"], 0)
        assert tokens(case) == (case["tokens"], 32)
        assert tokens(other)[0] != other["tokens"]
    daemon.adapters.UnloadAdapter(adapters_pb2.UnloadAdapterRequest(name="tenant"))
    assert daemon.metric("lorad_prefix_cache_blocks") == 0
    assert daemon.stop() == 0


def test_many_at_once_get_what_they_get_alone(start_daemon):
    daemon, alone = start_daemon("--memory-bytes=1MiB"), start_daemon("--prefix-cache=off")
    prompts = [PROMPT[: 20 + 7 * i] + [i] for i in range(8)] * 4
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda prompt: ask(daemon, prompt), prompts))
    expected = {len(prompt): said(ask(alone, prompt)) for prompt in prompts[:8]}
    for prompt, answer in zip(prompts, answers):
        assert said(answer) == expected[len(prompt)]
    assert daemon.metric("vllm:prefix_cache_hits_total") > 0
    for each in (daemon, alone):
        assert each.stop() == 0


def test_an_alora_begins_behind_the_bases_kv(start_daemon, golden, tmp_path):
    daemon = start_daemon(model_dir=golden / "llama2/model")
    cases = json.loads((golden / "llama2/cases.json").read_text())
    case = next(c for c in cases if c["name"] == "alora_lora_bias-40")  # its invocation is at 26
    folder = golden / "llama2/adapters" / case["adapter"]
    loaded = daemon.adapters.LoadAdapter(adapters_pb2.LoadAdapterRequest(name="judge", path=str(folder)))
    assert loaded.kind == "alora"
    ask(daemon, case["prompt"])
    answer = generate(daemon, case["prompt"], adapter="judge", max_tokens=case["max_tokens"], ignore_eos=True)
    assert answer.token_ids[0] == case["tokens"]
    assert answer.usage[0].cached_tokens == 16
    error = refusal(lambda: daemon.adapters.MergeAdapter(
        adapters_pb2.MergeAdapterRequest(name="judge", output_path=str(tmp_path / "never"))))
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED and "alora" in error.details()
    assert daemon.stop() == 0
