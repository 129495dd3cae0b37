#!/usr/bin/env python3
"""How far --quantize moves the demo base: logprobs of right answers, and exact answers to held-out prompts.

  .venv/bin/python bench/quantize_accuracy.py [--count 50] [--dtype auto]

The daemon answers for itself: none and each form of --quantize one after the other, the base and its demo adapters.
Drift is |logprob - logprob of none| of the tokens of prompts and right answers, teacher-forced. Needs lorad built, and
examples/demo-base.
"""

import concurrent.futures
import pathlib
import random
import sys
import tempfile

import grpc

import servers
import shared_flags

FORMS = ("int8", "int4", "fp8")
ROOT = shared_flags.ROOT
sys.path.insert(0, str(ROOT / "examples"))
import tasks  # noqa: E402

CASES = [(None, task) for task in tasks.TASKS] + [(a, t) for a in tasks.ADAPTERS for t in tasks.LIST_TASKS]


def stubs():
    from grpc_tools import protoc

    out = tempfile.mkdtemp(prefix="lorad-stubs-")
    include = pathlib.Path(protoc.__file__).parent / "_proto"
    code = protoc.main(["", f"-I{ROOT / 'proto'}", f"-I{include}", f"--python_out={out}", f"--grpc_python_out={out}",
                        str(ROOT / "proto/lorad/v1/inference.proto")])
    assert code == 0, "protoc failed"
    sys.path.insert(0, out)
    from lorad.v1 import inference_pb2, inference_pb2_grpc

    return inference_pb2, inference_pb2_grpc


def samples(count):
    """[(adapter, task, prompt, answer)]"""
    made = []
    for adapter, task in CASES:
        rng = random.Random(7)
        made += [(adapter, *tasks.sample(rng, [task], held_out=True, adapter=adapter)) for _ in range(count)]
    return [(adapter, task, prompt, answer) for adapter, task, _, prompt, answer in made]


def measure(pb2, stub, rows):
    """Of each row: its answer was right; the logprobs of prompt and right answer."""

    def ask(row):
        adapter, _, prompt, answer = row
        greedy = dict(temperature=0.0)
        request = pb2.GenerateRequest(text=prompt, adapter=adapter or "",
                                      sampling=pb2.SamplingParams(max_tokens=64, **greedy))
        text, finish = "", None
        for message in stub.Generate(request):
            text += message.text
            finish = message.finish_reason or finish
        forced = pb2.GenerateRequest(text=prompt + answer, adapter=adapter or "", prompt_logprobs=0,
                                     sampling=pb2.SamplingParams(max_tokens=1, **greedy))
        logprobs = [entry.logprob for message in stub.Generate(forced) for entry in message.prompt_logprobs
                    if entry.HasField("logprob")]
        return text == answer and finish == pb2.FINISH_REASON_STOP, logprobs

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        return list(pool.map(ask, rows))


def main():
    parser = shared_flags.parser(__doc__, "--build-dir")
    parser.add_argument("--count", type=int, default=50, help="held-out prompts for each adapter and task")
    parser.add_argument("--dtype", default="auto")
    args = parser.parse_args()
    pb2, pb2_grpc = stubs()
    rows, results = samples(args.count), {}
    for form in ("none", *FORMS):
        flags = (f"--quantize={form}", f"--dtype={args.dtype}", f"--adapter-dir={ROOT / 'examples/adapters'}",
                 "--memory-bytes=256MiB")
        log = tempfile.mkstemp(suffix=".log")[1]
        with servers.Lorad(args.build_dir, ROOT / "examples/demo-base", log=log, flags=flags) as server:
            channel = grpc.insecure_channel(server.address)
            results[form] = measure(pb2, pb2_grpc.InferenceStub(channel), rows)
            channel.close()
    print(f"| answers of | none | {' | '.join(FORMS)} |\n| --- |{' --- |' * (1 + len(FORMS))}")
    for adapter in [None, *tasks.ADAPTERS]:
        right = []
        for result in results.values():
            own = [ok for (of, *_), (ok, _) in zip(rows, result) if of == adapter]
            right.append(f"{100 * sum(own) / len(own):.1f}")
        print(f"| {adapter or 'base'} | " + " | ".join(right) + " |")
    print("\n| drift of logprobs against none | mean | max |\n| --- | --- | --- |")
    for form in FORMS:
        off = [abs(a - b) for (_, whole), (_, other) in zip(results["none"], results[form]) for a, b in zip(whole, other)]
        print(f"| {form} | {sum(off) / len(off):.4f} | {max(off):.3f} | ({len(off)} tokens)")


if __name__ == "__main__":
    main()
