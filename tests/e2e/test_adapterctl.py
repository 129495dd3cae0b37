"""adapterctl: every verb, tables and JSON, exit codes."""

import json
import socket
import subprocess

import pytest
from support import WAIT_SECONDS


def ok(daemon, *arguments, **options):
    done = daemon.ctl(*arguments, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ok_json(daemon, *arguments):
    return json.loads(ok(daemon, "--output=json", *arguments))


@pytest.fixture
def llama3(golden):
    return golden / "llama3/adapters"


def text_of(ids):
    return " ".join(f"w{i}" for i in ids)


def test_the_life_of_an_adapter_as_json(start_daemon, llama3):
    daemon = start_daemon()
    assert ok_json(daemon, "list") == {"adapters": []}
    loaded = ok_json(daemon, "load", "a", str(llama3 / "q_v"), "--pin")
    assert list(loaded) == ["name", "path", "kind", "state", "rank_min", "rank_max", "bytes", "pinned", "in_host_memory", "digest", "targets",
                            "running_requests", "waiting_requests", "warnings", "error"]
    assert loaded["name"] == "a" and loaded["kind"] == "lora" and loaded["targets"] == ["q_proj", "v_proj"]
    assert ok_json(daemon, "unpin", "a")["pinned"] is False
    assert ok_json(daemon, "pin", "a")["pinned"] is True
    assert ok_json(daemon, "show", "a")["name"] == "a"
    ok_json(daemon, "load", "a", str(llama3 / "rslora"), "--replace")
    assert [adapter["name"] for adapter in ok_json(daemon, "list")["adapters"]] == ["a"]
    assert ok_json(daemon, "unload", "a") == {"unloaded": "a"}
    assert daemon.stop() == 0


def test_tables_for_people(daemon, llama3):
    ok(daemon, "load", "shown", str(llama3 / "q_v"))
    lines = ok(daemon, "list").splitlines()
    assert lines[0].split()[:2] == ["NAME", "STATE"]
    assert any(line.startswith("shown ") for line in lines[1:])
    assert "q_proj, v_proj" in ok(daemon, "show", "shown")
    assert "LlamaForCausalLM" in ok(daemon, "info")
    assert "unloaded shown" in ok(daemon, "unload", "shown")


def test_info_as_json(daemon):
    info = ok_json(daemon, "info")
    assert info["architecture"] == "LlamaForCausalLM" and info["vocab_size"] == 101


def test_generate_streams_text_and_gives_json(daemon, cases):
    case = next(case for case in cases.values() if case["adapter"] == "q_v")
    prompt = text_of(case["prompt"])
    flags = ["--adapter=q_v", "--temperature=0", f"--max-tokens={case['max_tokens']}", "--ignore-eos"]
    assert ok(daemon, "generate", *flags, prompt).split() == text_of(case["tokens"]).split()
    assert ok(daemon, "generate", *flags, input=prompt).split() == text_of(case["tokens"]).split()
    ids = ",".join(map(str, case["prompt"]))
    answer = ok_json(daemon, "generate", *flags, "--logprobs=1", f"--token-ids={ids}")
    assert answer["adapter"] == "q_v"
    sequence = answer["sequences"][0]
    assert sequence["token_ids"] == case["tokens"] and sequence["finish_reason"] == "length"
    assert sequence["usage"]["completion_tokens"] == case["max_tokens"]
    assert [token["logprob"] for token in sequence["logprobs"]] == pytest.approx(case["logprobs"], abs=5e-4)


def test_several_adapters_at_once(daemon, golden):
    for case in json.loads((golden / "llama3/compositions.json").read_text()):
        adapters = [f"--adapter={a['name']}" + ("" if a["scale"] == 1 else f"={a['scale']}") for a in case["adapters"]]
        flags = ["--temperature=0", f"--max-tokens={case['max_tokens']}", "--ignore-eos"]
        answer = ok_json(daemon, "generate", *adapters, *flags, text_of(case["prompt"]))
        assert answer["sequences"][0]["token_ids"] == case["tokens"], case["name"]
    for wrong in ("q_v=", "q_v=x", "q_v=1x"):
        assert daemon.ctl("generate", f"--adapter={wrong}", "w1").returncode == 2
    assert daemon.ctl("generate", "--adapter=q_v", "--adapter=q_v", "w1").returncode == 1


def test_every_sampling_option_is_taken(daemon):
    answer = ok_json(daemon, "generate", "w5 w6", "--max-tokens=6", "--min-tokens=6", "--temperature=0.8", "--top-p=0.9", "--top-k=20",
                     "--min-p=0.01", "--repetition-penalty=1.1", "--presence-penalty=0.1", "--frequency-penalty=0.1", "--seed=7",
                     "--n=2", "--stop=never", "--stop=ever", "--stop-token=3", "--logit-bias=4=-100", "--priority=1",
                     "--request-id=r", "--timeout=30", "--prompt-logprobs=1")
    assert [len(sequence["token_ids"]) for sequence in answer["sequences"]] == [6, 6]
    assert len(answer["sequences"][0]["prompt_logprobs"]) == 2


def test_compare_shows_base_and_adapters(daemon, cases):
    prompt = [30, 49]
    lines = ok(daemon, "generate", "--compare=q_v,rslora", "--temperature=0", "--max-tokens=12", "--ignore-eos", text_of(prompt))
    rows = {line.split()[0]: line.split()[1:] for line in lines.splitlines()}
    assert list(rows) == ["(base)", "q_v", "rslora"]
    assert rows["(base)"] == text_of(cases["base-2"]["tokens"]).split()
    answers = ok_json(daemon, "generate", "--max-tokens=2", "--compare=q_v", "w1")["answers"]
    assert [answer["adapter"] for answer in answers] == ["", "q_v"]


def test_an_empty_value_is_a_value(daemon, cases):
    case = cases["base-2"]
    said = ok(daemon, "generate", "--temperature=0", "--max-tokens=4", "--ignore-eos", "--adapter=", text_of(case["prompt"]))
    assert said.split() == text_of(case["tokens"][:4]).split()
    said = ok(daemon, "generate", "--temperature=0", "--max-tokens=1", "--ignore-eos", "--", "w1")
    assert len(said.split()) == 1


def test_a_mistake_is_told_with_what_there_is(daemon):
    bare = daemon.ctl()
    assert bare.returncode == 2 and "generate" in bare.stderr and "rollback" in bare.stderr, "the help"
    train = daemon.ctl("train")
    assert train.returncode == 2 and "submit" in train.stderr and "preview" in train.stderr
    assert "verb: dance; limit: load, unload, list" in daemon.ctl("dance").stderr
    assert "flag: --nonsense" in daemon.ctl("--nonsense").stderr
    assert "verb: dance; limit: submit, list" in daemon.ctl("train", "dance").stderr
    assert "hint: adapterctl load --help" in daemon.ctl("load", "a").stderr
    assert "--nonsense" in daemon.ctl("list", "--nonsense").stderr


def test_a_load_that_failed_is_listed_with_its_reason(start_daemon, tmp_path):
    daemon = start_daemon()
    assert daemon.ctl("load", "broken", str(tmp_path)).returncode == 1
    lines = ok(daemon, "list").splitlines()
    assert lines[1].split()[:5] == ["broken", "failed", "-", "-", "-"]
    assert lines[2].startswith("broken: cannot open: ")
    assert daemon.stop() == 0


def test_hints_are_the_verbs_own(daemon, llama3, tmp_path):
    assert "PATH is the daemon's" in daemon.ctl("load", "a", str(tmp_path / "nowhere")).stderr
    ok(daemon, "load", "there", str(llama3 / "q_v"))
    assert "--replace" in daemon.ctl("load", "there", str(llama3 / "q_v")).stderr
    merged = daemon.ctl("merge", "there", f"--output={tmp_path}")
    assert merged.returncode == 1 and "not there yet" in merged.stderr and "--replace" not in merged.stderr
    ok(daemon, "unload", "there")


def test_exit_codes_and_hints(daemon, build_dir):
    missing = daemon.ctl("show", "nobody")
    assert missing.returncode == 1 and "NOT_FOUND" in missing.stderr and "hint" in missing.stderr
    missing = daemon.ctl("--output=json", "unload", "nobody")
    assert missing.returncode == 1 and json.loads(missing.stderr)["error"]["code"] == "NOT_FOUND"
    assert daemon.ctl("generate", "--adapter=nobody", "w1").returncode == 1
    for wrong in ([], ["dance"], ["load", "a"], ["--output=xml", "list"], ["generate", "--logit-bias=x", "w1"],
                  ["generate", "--compare=q_v", "--adapter=q_v", "w1"], ["generate", "--top-k=-1", "w1"],
                  ["generate", "--token-ids=1,x"], ["generate", "--token-ids=1", "w1"]):
        assert daemon.ctl(*wrong).returncode == 2, wrong
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = f"--server=127.0.0.1:{unused.getsockname()[1]}"
        gone = subprocess.run([build_dir / "bin/adapterctl", nobody, "list"], capture_output=True, text=True, timeout=WAIT_SECONDS)
    assert gone.returncode == 3 and "no daemon answers" in gone.stderr
    for server in ("", "localhost", f"http://{daemon.address}"):
        wrong = subprocess.run([build_dir / "bin/adapterctl", f"--server={server}", "list"], capture_output=True, text=True, timeout=WAIT_SECONDS)
        assert wrong.returncode == 2 and f"--server: {server or 'nothing'}; limit: HOST:PORT" in wrong.stderr, wrong.stderr
    assert daemon.ctl("--help").returncode == 0
