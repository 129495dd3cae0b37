"""--adapter-dir with ten thousand folders: what is not used is not even looked at."""

import ctypes
import os
import shutil
import struct

import grpc
from lorad.v1 import adapters_pb2
from support import generate, refusal, request, wait_until

FOLDERS = 10_000
IN_ACCESS, IN_OPEN = 0x1, 0x20


class Watcher:
    """Tells in which of the folders anything was opened or read, or which were opened themselves (inotify)."""

    def __init__(self, folders):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self.libc.inotify_init1(os.O_NONBLOCK)
        assert self.fd >= 0
        self.folder_of = {}
        for folder in folders:
            watch = self.libc.inotify_add_watch(self.fd, os.fsencode(folder), IN_ACCESS | IN_OPEN)
            assert watch >= 0, os.strerror(ctypes.get_errno())
            self.folder_of[watch] = folder

    def touched(self):
        """Since the last call."""
        folders = set()
        while True:
            try:
                events = os.read(self.fd, 1 << 16)
            except BlockingIOError:
                return folders
            at = 0
            while at < len(events):
                watch, _, _, length = struct.unpack_from("iIII", events, at)
                folders.add(self.folder_of[watch])
                at += 16 + length

    def close(self):
        os.close(self.fd)


def test_ten_thousand_folders_are_not_looked_at_before_their_first_use(start_daemon, golden, cases, tmp_path):
    adapter = shutil.copytree(golden / "llama3/adapters/q_v", tmp_path / "adapter")
    root = tmp_path / "adapters"
    folders = [root / f"a{i:05}" for i in range(FOLDERS)]
    for folder in folders:
        folder.mkdir(parents=True)
        for file in adapter.iterdir():
            os.link(file, folder / file.name)
    watcher = Watcher([root, *folders])
    daemon = start_daemon(f"--adapter-dir={root}")
    assert generate(daemon, [3], max_tokens=2, ignore_eos=True).token_ids[0]
    assert not daemon.adapters.ListAdapters(adapters_pb2.ListAdaptersRequest()).adapters
    assert daemon.metric("lorad_pool_pages", owner="adapter") == 0
    assert watcher.touched() == set()

    case = next(case for case in cases.values() if case["adapter"] == "q_v")
    used = folders[7::3000]
    for folder in used:
        answer = generate(daemon, case["prompt"], adapter=folder.name, max_tokens=case["max_tokens"], ignore_eos=True)
        assert answer.token_ids[0] == case["tokens"]
    assert watcher.touched() == set(used)

    error = refusal(lambda: daemon.inference.Generate(request([1], adapter="a99999", max_tokens=1)))
    assert error.code() == grpc.StatusCode.NOT_FOUND and "a99999" in error.details()
    watcher.close()

    # Many more than a page, of which the pool holds what was used alone.
    many = {folder.name for folder in used} | {folder.name for folder in folders[:120]}
    for name in many:
        generate(daemon, [3], adapter=name, max_tokens=1)
    seen, token = [], ""
    while True:
        page = daemon.adapters.ListAdapters(adapters_pb2.ListAdaptersRequest(page_size=50, page_token=token))
        assert len(page.adapters) <= 50
        seen += [adapter.name for adapter in page.adapters]
        token = page.next_page_token
        if not token:
            break
    assert seen == sorted(many)
    wait_until(lambda: daemon.metric("lorad_adapters", state="resident") == len(many))
    assert daemon.stop() == 0
