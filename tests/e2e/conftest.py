"""Fixtures: generated stubs, a golden base with a small tokenizer, and daemons on it."""

import json
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(pathlib.Path(__file__).parent))


def pytest_addoption(parser):
    parser.addoption("--build-dir", default=str(ROOT / "build/release"), help="where bin/lorad and bin/adapterctl are")
    parser.addoption("--device", default="", help="of every daemon that asks for none itself, as lorad --device")


def pytest_configure(config):
    # Before test modules are imported: they import the generated modules.
    import tempfile

    from grpc_tools import protoc

    out = tempfile.mkdtemp(prefix="lorad-stubs-")
    config.add_cleanup(lambda: __import__("shutil").rmtree(out, ignore_errors=True))
    protos = [f"lorad/v1/{name}.proto" for name in ("inference", "adapters", "finetuning")]
    include = pathlib.Path(protoc.__file__).parent / "_proto"
    code = protoc.main(["", f"-I{ROOT / 'proto'}", f"-I{include}", f"--python_out={out}", f"--grpc_python_out={out}", *protos])
    assert code == 0, "protoc failed"
    sys.path.insert(0, out)
    from support import Daemon

    Daemon.device = config.getoption("--device")


@pytest.fixture(scope="session")
def build_dir(request):
    return pathlib.Path(request.config.getoption("--build-dir"))


@pytest.fixture(scope="session")
def golden():
    return ROOT / "tests/golden"


@pytest.fixture(scope="session")
def model(golden, tmp_path_factory):
    """The golden base llama3 with a tokenizer whose word w<i> is token i."""
    from support import word_tokenizer

    folder = tmp_path_factory.mktemp("model") / "tiny-llama"
    folder.mkdir()
    for file in (golden / "llama3/model").iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "tokenizer.json").write_text(word_tokenizer([f"w{i}" for i in range(101)]))
    return folder


@pytest.fixture(scope="session")
def cases(golden):
    """The greedy cases of llama3, by name."""
    return {case["name"]: case for case in json.loads((golden / "llama3/cases.json").read_text())}


@pytest.fixture(scope="module")
def daemon(build_dir, model, golden):
    """One daemon for the tests of a file; those that change it start their own with start_daemon."""
    from support import Daemon

    with Daemon(build_dir, model, f"--adapter-dir={golden / 'llama3/adapters'}", "--memory-bytes=64MiB") as running:
        yield running


@pytest.fixture
def start_daemon(build_dir, model):
    from support import Daemon

    running = []

    def start(*flags, model_dir=model):
        daemon = Daemon(build_dir, model_dir, *flags)
        running.append(daemon)
        return daemon

    yield start
    for daemon in running:
        daemon.kill()


@pytest.fixture
def tuner(start_daemon, tmp_path):
    from tuning import Tuning

    def start(state="state", *flags):
        daemon = start_daemon(f"--state-dir={tmp_path / state}", *flags)
        return daemon, Tuning(daemon)

    return start
