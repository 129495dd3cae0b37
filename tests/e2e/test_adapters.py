"""Adapters over the wire: life cycle under traffic, names and paths, folders that must be refused."""

import concurrent.futures
import json
import threading

import grpc
import pytest
from lorad.v1 import adapters_pb2
from support import collect, generate, refusal, request, wait_until, write_mixlora


def load(daemon, name, path, **options):
    return daemon.adapters.LoadAdapter(adapters_pb2.LoadAdapterRequest(name=name, path=str(path), **options))


def unload(daemon, name):
    return daemon.adapters.UnloadAdapter(adapters_pb2.UnloadAdapterRequest(name=name))


def listed(daemon):
    return daemon.adapters.ListAdapters(adapters_pb2.ListAdaptersRequest()).adapters


def names(daemon):
    return [adapter.name for adapter in listed(daemon)]


def case_of(cases, adapter):
    return next(case for case in cases.values() if case["adapter"] == adapter)


def tokens(daemon, case, adapter):
    answer = generate(daemon, case["prompt"], adapter=adapter, max_tokens=case["max_tokens"], ignore_eos=True)
    return answer.token_ids[0]


@pytest.fixture
def llama3(golden):
    return golden / "llama3/adapters"


def test_a_routed_adapter_tells_how_its_experts_are_used(start_daemon, tmp_path):
    daemon = start_daemon()
    load(daemon, "routed", write_mixlora(tmp_path))
    show = lambda: daemon.adapters.GetAdapter(adapters_pb2.GetAdapterRequest(name="routed"))
    assert [list(layer.tokens) for layer in show().expert_load] == [[0, 0], [0, 0]]
    generate(daemon, [5, 6, 7], adapter="routed", max_tokens=8, ignore_eos=True)
    generate(daemon, [5, 6, 7], adapter="", max_tokens=8, ignore_eos=True)
    rows = 3 + 7  # of the prompt, and of all tokens but the last
    assert [(layer.layer, list(layer.tokens)) for layer in show().expert_load] == [(0, [rows, 0]), (1, [rows, 0])]
    assert daemon.metric("lorad_adapter_expert_tokens_total", adapter="routed") == 2 * rows
    assert daemon.metric("lorad_adapter_expert_imbalance", adapter="routed") == 2
    assert not listed(daemon)[0].expert_load
    assert f"{rows}, 0 tokens; largest over mean: 2.00" in daemon.ctl("show", "routed").stdout
    assert json.loads(daemon.ctl("--output=json", "show", "routed").stdout)["expert_load"][1] == {"layer": 1, "tokens": [rows, 0]}


def test_load_show_pin_unload(start_daemon, llama3, cases):
    daemon = start_daemon()
    loaded = load(daemon, "team/a:1", llama3 / "q_v")
    assert loaded.name == "team/a:1" and loaded.kind == "lora"
    assert loaded.rank_max >= loaded.rank_min > 0 and loaded.bytes > 0 and loaded.digest
    assert set(loaded.targets) == {"q_proj", "v_proj"}
    case = case_of(cases, "q_v")
    assert tokens(daemon, case, "team/a:1") == case["tokens"]

    pinned = daemon.adapters.PinAdapter(adapters_pb2.PinAdapterRequest(name="team/a:1", pinned=True))
    assert pinned.pinned
    wait_until(lambda: daemon.adapters.GetAdapter(adapters_pb2.GetAdapterRequest(name="team/a:1")).pinned)
    assert names(daemon) == ["team/a:1"]
    assert daemon.metric("lorad_pool_pages", owner="adapter") > 0

    unload(daemon, "team/a:1")
    wait_until(lambda: names(daemon) == [])
    assert daemon.metric("lorad_pool_pages", owner="adapter") == 0
    error = refusal(lambda: daemon.inference.Generate(request([1], adapter="team/a:1", max_tokens=1)))
    assert error.code() == grpc.StatusCode.NOT_FOUND
    assert refusal(lambda: unload(daemon, "team/a:1")).code() == grpc.StatusCode.NOT_FOUND
    assert daemon.stop() == 0


def test_a_known_name_is_already_there_unless_replaced(start_daemon, llama3, cases):
    daemon = start_daemon(f"--adapter=a={llama3 / 'q_v'}")
    assert refusal(lambda: load(daemon, "a", llama3 / "rslora")).code() == grpc.StatusCode.ALREADY_EXISTS
    case = case_of(cases, "q_v")
    assert tokens(daemon, case, "a") == case["tokens"]
    load(daemon, "a", llama3 / "rslora", replace=True)
    case = case_of(cases, "rslora")
    assert tokens(daemon, case, "a") == case["tokens"]
    # A replacement that cannot be loaded leaves the old one in its place.
    refusal(lambda: load(daemon, "a", llama3 / "nowhere", replace=True))
    refusal(lambda: load(daemon, "a", llama3.parent.parent / "refused/r_zero", replace=True))
    assert tokens(daemon, case, "a") == case["tokens"]
    shown = daemon.adapters.GetAdapter(adapters_pb2.GetAdapterRequest(name="a"))
    assert shown.state == adapters_pb2.ADAPTER_STATE_RESIDENT and not shown.error
    for name in ("a" * 9000, "", "../a"):
        error = refusal(lambda: daemon.adapters.GetAdapter(adapters_pb2.GetAdapterRequest(name=name)))
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT and len(error.details()) < 1000
    assert daemon.stop() == 0


def test_pages_of_a_list_together_are_the_list(start_daemon, llama3):
    flags = [f"--adapter=n{i}={llama3 / 'rank_1'}" for i in range(7)]
    daemon = start_daemon(*flags)
    seen, token, pages = [], "", 0
    while True:
        page = daemon.adapters.ListAdapters(adapters_pb2.ListAdaptersRequest(page_size=3, page_token=token))
        seen += [adapter.name for adapter in page.adapters]
        token, pages = page.next_page_token, pages + 1
        if not token:
            break
    assert seen == [f"n{i}" for i in range(7)] and pages == 3
    assert daemon.stop() == 0


def test_load_unload_and_replace_under_traffic_disturb_nobody(start_daemon, llama3, cases):
    daemon = start_daemon(f"--adapter-dir={llama3}")
    steady = [case for case in cases.values() if case["adapter"] in ("", "q_v", "all_linear", "rslora")]
    before, after = case_of(cases, "rank_1"), case_of(cases, "patterns")
    prompt = before["prompt"]
    expected_old = tokens(daemon, before, "rank_1")
    expected_new = tokens(daemon, dict(after, prompt=prompt), "patterns")
    stop = threading.Event()
    wrong = []

    def traffic(case):
        while not stop.is_set():
            if tokens(daemon, case, case["adapter"]) != case["tokens"]:
                wrong.append(case["name"])

    with concurrent.futures.ThreadPoolExecutor(len(steady)) as pool:
        running = [pool.submit(traffic, case) for case in steady]
        try:
            for _ in range(5):
                load(daemon, "visitor", llama3 / "rank_1")
                assert tokens(daemon, before, "visitor") == expected_old
                # Running requests end on the weights that they began with; those after the reply get the new ones.
                call = daemon.inference.Generate(request(prompt, adapter="visitor", max_tokens=before["max_tokens"], ignore_eos=True))
                first = next(call)
                load(daemon, "visitor", llama3 / "patterns", replace=True)
                assert tokens(daemon, dict(after, prompt=prompt), "visitor") == expected_new
                assert list(first.token_ids) + [i for message in call for i in message.token_ids] == expected_old
                unload(daemon, "visitor")
                error = refusal(lambda: daemon.inference.Generate(request([1], adapter="visitor", max_tokens=1)))
                assert error.code() == grpc.StatusCode.NOT_FOUND
        finally:
            stop.set()
        for future in running:
            future.result()
    assert not wrong
    assert daemon.stop() == 0


def test_unload_drains_running_requests(start_daemon, llama3, cases):
    daemon = start_daemon(f"--adapter=a={llama3 / 'q_v'}")
    case = case_of(cases, "q_v")
    call = daemon.inference.Generate(request(case["prompt"], adapter="a", max_tokens=200, ignore_eos=True))
    first = next(call)
    unload(daemon, "a")
    ids = list(first.token_ids) + [i for message in call for i in message.token_ids]
    assert len(ids) == 200
    assert ids[: len(case["tokens"])] == case["tokens"]
    assert daemon.stop() == 0


BAD_NAMES = ["", "-a", "a b", "a//b", "a/../b", "./a", "a@1", "ü", "x" * 257]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_names_are_refused(daemon, llama3, name):
    error = refusal(lambda: load(daemon, name, llama3 / "q_v"))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_paths_outside_the_root_are_refused(start_daemon, llama3, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    outside = tmp_path / "outside"
    outside.symlink_to(llama3 / "q_v")
    inside = root / "inside"
    inside.mkdir()
    for file in (llama3 / "q_v").iterdir():
        (inside / file.name).write_bytes(file.read_bytes())
    (root / "link-in").symlink_to(inside)
    (root / "link-out").symlink_to(llama3 / "q_v")
    daemon = start_daemon(f"--adapter-root={root}")
    for path in (outside, root / "link-out", root / "../outside", "../outside", llama3 / "q_v", "/etc"):
        error = refusal(lambda: load(daemon, "x", path))
        assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND), path
    assert {adapter.state for adapter in listed(daemon)} <= {adapters_pb2.ADAPTER_STATE_FAILED}
    load(daemon, "a", inside)
    load(daemon, "b", root / "link-in")
    load(daemon, "c", "inside")
    assert [adapter.name for adapter in listed(daemon) if adapter.state != adapters_pb2.ADAPTER_STATE_FAILED] == ["a", "b", "c"]
    assert daemon.stop() == 0


def test_folders_that_must_be_refused_are_and_disturb_nobody(start_daemon, golden, llama3, cases):
    daemon = start_daemon(f"--adapter-dir={llama3}")
    case = case_of(cases, "q_v")
    folders = sorted(folder for folder in (golden / "refused").iterdir() if folder.is_dir())
    assert len(folders) > 100
    for folder in folders:
        error = refusal(lambda: load(daemon, "bad", folder))
        assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.DATA_LOSS,
                                grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION), (folder.name, error)
        assert error.details()
    assert "bad" not in [adapter.name for adapter in daemon.adapters.ListAdapters(adapters_pb2.ListAdaptersRequest()).adapters
                         if adapter.state != adapters_pb2.ADAPTER_STATE_FAILED]
    assert tokens(daemon, case, "q_v") == case["tokens"]
    assert daemon.metric("lorad_adapter_load_failures_total") > 0
    assert daemon.stop() == 0


def test_adapters_of_the_dir_load_at_first_use(daemon, cases):
    case = case_of(cases, "rslora")
    answer = generate(daemon, case["prompt"], adapter="rslora", max_tokens=case["max_tokens"], ignore_eos=True)
    assert answer.token_ids[0] == case["tokens"]
    listed = {adapter.name: adapter for adapter in daemon.adapters.ListAdapters(adapters_pb2.ListAdaptersRequest()).adapters}
    assert listed["rslora"].state == adapters_pb2.ADAPTER_STATE_RESIDENT
    labels = next(line for line in daemon.http("/metrics")[1].splitlines() if line.startswith("vllm:lora_requests_info{"))
    assert "rslora" in labels.split('running_lora_adapters="')[1].split('"')[0].split(",")


def test_more_adapters_than_memory_are_served_by_evicting_idle_ones(start_daemon, llama3, cases):
    flags = [f"--adapter=wide{i}={llama3 / 'rank_80'}" for i in range(8)]
    daemon = start_daemon("--memory-bytes=1MiB", *flags)
    case = case_of(cases, "rank_80")
    for i in range(16):
        assert tokens(daemon, case, f"wide{i % 8}") == case["tokens"]
    assert daemon.metric("lorad_adapter_evictions_total") > 0
    assert daemon.stop() == 0


def test_what_the_host_keeps_is_not_read_again(start_daemon, llama3, cases):
    flags = [f"--adapter=wide{i}={llama3 / 'rank_80'}" for i in range(8)]
    daemon = start_daemon("--memory-bytes=1MiB", "--host-adapter-bytes=64MiB", *flags)
    case = case_of(cases, "rank_80")
    read = lambda: daemon.metric("lorad_adapter_load_seconds_count", source="disk")
    for i in range(8):
        assert tokens(daemon, case, f"wide{i}") == case["tokens"]
    assert read() == 8 and daemon.metric("lorad_host_adapters") == 8 and daemon.metric("lorad_host_adapter_bytes") > 0
    for i in range(8):
        assert tokens(daemon, case, f"wide{i}") == case["tokens"]
    assert read() == 8 and daemon.metric("lorad_adapter_load_seconds_count", source="host") > 0
    listed = daemon.adapters.ListAdapters(adapters_pb2.ListAdaptersRequest()).adapters
    assert all(adapter.in_host_memory for adapter in listed)
    daemon.adapters.UnloadAdapter(adapters_pb2.UnloadAdapterRequest(name="wide0"))
    wait_until(lambda: daemon.metric("lorad_host_adapters") == 7)
    assert daemon.stop() == 0


def test_revisions_need_a_state_folder(daemon):
    error = refusal(lambda: daemon.adapters.RollbackAdapter(adapters_pb2.RollbackAdapterRequest(name="q_v")))
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION and "--state-dir" in error.details()
    error = refusal(lambda: generate(daemon, [5], adapter="q_v@0123", max_tokens=1))
    assert error.code() == grpc.StatusCode.NOT_FOUND
    error = refusal(lambda: generate(daemon, [5], adapter="q_v@../..", max_tokens=1))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT and "adapter revision" in error.details()
