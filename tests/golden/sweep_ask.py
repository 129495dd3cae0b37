#!/usr/bin/env python
"""The daemon's side of the sweep, in the environment of the e2e tests: sweep.py starts it and sends it plans.

A line of standard input is a folder with plan.json; answers.json is written beside it, and a line comes back.

  plan     {"model", "flags", "phases": [{"load": [{"name", "path"}], "requests": [request]}]}
  request  {"adapters": [{"name", "scale"}], "prompt", "max_tokens", "prompt_logprobs": whether they are asked for}
  answers  {"phases": [{"loads": {name: error or null}, "answers": [answer]}], "failure": "" or what became of the daemon}
  answer   {"tokens", "logprobs", "prompt_logprobs"} or {"error"}; an error is {"code", "message"}

All requests of a phase are sent at once, so that they share steps.
"""

import importlib.resources
import json
import pathlib
import sys
import tempfile

import grpc

ROOT = pathlib.Path(__file__).resolve().parents[2]
SECONDS = 60


def make_stubs(out: str) -> None:
    from grpc_tools import protoc

    include = importlib.resources.files("grpc_tools") / "_proto"
    protos = [f"lorad/v1/{name}.proto" for name in ("inference", "adapters", "finetuning")]
    if protoc.main(["", f"-I{ROOT / 'proto'}", f"-I{include}", f"--python_out={out}", f"--grpc_python_out={out}", *protos]):
        raise SystemExit("protoc failed")
    sys.path[:0] = [out, str(ROOT / "tests/e2e")]


def error_of(error: grpc.RpcError) -> dict:
    return {"code": error.code().name, "message": error.details()}


def load(daemon, name: str, path: str, known: set) -> dict | None:
    """A name that is known gets another meaning, by either of the two ways."""
    from lorad.v1 import adapters_pb2

    replace = name in known and len(known) % 2 == 0
    try:
        if name in known and not replace:
            daemon.adapters.UnloadAdapter(adapters_pb2.UnloadAdapterRequest(name=name), timeout=SECONDS)
            known.remove(name)
        daemon.adapters.LoadAdapter(adapters_pb2.LoadAdapterRequest(name=name, path=path, replace=replace), timeout=SECONDS)
    except grpc.RpcError as error:
        return error_of(error)
    known.add(name)
    return None


def send(daemon, wanted: dict):
    import support

    made = support.request(wanted["prompt"], max_tokens=wanted["max_tokens"], ignore_eos=True, logprobs=0,
                           prompt_logprobs=0 if wanted["prompt_logprobs"] else None)
    for adapter in wanted["adapters"]:
        made.adapters.add(name=adapter["name"], scale=adapter["scale"])
    return daemon.inference.Generate(made, timeout=SECONDS)


def answer_of(call) -> dict:
    import support

    try:
        answer = support.collect(call)
    except grpc.RpcError as error:
        return {"error": error_of(error)}
    if answer.abort_detail[0]:
        return {"error": {"code": "ABORT", "message": answer.abort_detail[0]}}
    return {"tokens": answer.token_ids[0], "logprobs": [each.logprob for each in answer.logprobs[0]],
            "prompt_logprobs": [each.logprob for each in answer.prompt_logprobs[0][1:]]}


def run_phase(daemon, phase: dict, known: set) -> dict:
    loads = {each["name"]: load(daemon, each["name"], each["path"], known) for each in phase["load"]}
    requests = [each for each in phase["requests"] if not any(loads.get(a["name"]) for a in each["adapters"])]
    calls = {id(each): send(daemon, each) for each in requests}
    answers = [answer_of(calls[id(each)]) if id(each) in calls else {"error": {"code": "NOT_LOADED", "message": ""}}
               for each in phase["requests"]]
    return {"loads": loads, "answers": answers}


def run(build_dir: pathlib.Path, folder: pathlib.Path) -> None:
    import support

    plan = json.loads((folder / "plan.json").read_text())
    out, known = {"phases": [], "failure": ""}, set()
    try:
        with support.Daemon(build_dir, plan["model"], *plan["flags"]) as daemon:
            for phase in plan["phases"]:
                out["phases"].append(run_phase(daemon, phase, known))
                if daemon.process.poll() is not None:
                    raise AssertionError(f"the daemon has ended: {''.join(daemon.log)[-2000:]}")
    except (AssertionError, grpc.RpcError) as failure:
        out["failure"] = str(failure)
    (folder / "answers.json").write_text(json.dumps(out))


def main() -> None:
    with tempfile.TemporaryDirectory() as stubs:
        make_stubs(stubs)
        for line in sys.stdin:
            run(pathlib.Path(sys.argv[1]), pathlib.Path(line.strip()))
            print("answered", flush=True)


if __name__ == "__main__":
    main()
