"""deploy/container: what `collect` takes of a build is all that the programs want, and no more. No image is built here."""

import os
import pathlib
import re
import shutil
import subprocess

import pytest
from conftest import ROOT
from lorad.v1 import inference_pb2
from support import WAIT_SECONDS, Daemon, generate

COLLECT = ROOT / "deploy/container/collect"
CONTAINERFILE = (ROOT / "deploy/container/Containerfile").read_text()
OF_A_DRIVER = re.compile(r"lib(cuda|nvidia-.*)\.so")


def collect(*arguments):
    return subprocess.run([COLLECT, *map(str, arguments)], capture_output=True, text=True, timeout=WAIT_SECONDS)


def linked(programs, folder):
    """{name: path} of what the loader gives these, with this folder of libraries; "" where it finds none."""
    done = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=True, env={**os.environ, "LC_ALL": "C", "LD_LIBRARY_PATH": str(folder)})
    return dict(re.findall(r"^\s+(\S+) => (?:not found|(\S+) \(0x\w+\))$", done.stdout, re.M))


def assert_complete(out, roots):
    """Its libraries are those that the roots want beside Debian's, and all of them."""
    found = linked(roots, out / "lib")
    assert {name for name, path in found.items() if not path and not OF_A_DRIVER.match(name)} == set()
    ours = {name for name, path in found.items() if path.startswith(f"{out}/lib/")}
    of_debian = {name: path for name, path in found.items() if path and name not in ours}
    assert all(path.startswith(("/lib", "/usr/lib")) for path in of_debian.values()), of_debian
    there = {path.name for path in (out / "lib").iterdir()}
    assert there == ours | ({"liblorad_cuda.so"} & there)
    assert not any(OF_A_DRIVER.match(name) for name in there)
    packages = (out / "packages").read_text().split()
    assert packages == sorted(set(packages)) and "libc6" in packages
    files = [line for package in packages for line in subprocess.run(["dpkg-query", "-L", package], capture_output=True, text=True, check=True).stdout.split()]
    owned = {os.path.realpath(file) for file in files}
    assert {path for path in of_debian.values() if os.path.realpath(path) not in owned} == set()


@pytest.fixture(scope="module")
def built(build_dir, tmp_path_factory):
    """A build folder as the preset cuda makes one, but for its library, which is the emulated device's."""
    if not (build_dir / "emulated/driver").exists():
        pytest.skip("the emulated device is not built with sanitizers")
    folder = tmp_path_factory.mktemp("built")
    (folder / "bin").symlink_to(build_dir.resolve() / "bin")
    (folder / "lib").mkdir()
    for library in [build_dir / "emulated/lib/liblorad_cuda.so", *(build_dir / "lib").glob("liblorad_sentencepiece.so")]:
        shutil.copy(library, folder / "lib")
    return folder


@pytest.fixture(scope="module", params=["cpu", "cuda"])
def collected(request, built, tmp_path_factory):
    out = tmp_path_factory.mktemp("image") / "lorad"
    done = collect(*(["--cuda"] if request.param == "cuda" else []), built / "bin", out)
    assert done.returncode == 0, done.stderr
    yield request.param, out, done.stdout
    shutil.rmtree(out)


def test_programs_start_from_the_folder_alone(collected):
    _, out, said = collected
    for program, flag, answer in (("lorad", "--version", "lorad "), ("adapterctl", "--help", "adapterctl")):
        done = subprocess.run([out / "bin" / program, flag], capture_output=True, text=True, env={"LD_LIBRARY_PATH": str(out / "lib")})
        assert done.returncode == 0 and answer in done.stdout, done.stderr
    assert "libtorch_cpu.so" in said and re.search(r"MiB in \d+ files", said)


def test_it_holds_what_the_programs_are_linked_with_and_no_more(collected):
    form, out, _ = collected
    roots = [out / "bin/lorad", out / "bin/adapterctl"]
    if form == "cuda":
        roots.append(out / "lib/liblorad_cuda.so")
    assert_complete(out, roots)
    assert (out / "lib/liblorad_cuda.so").exists() == (form == "cuda")
    for file in (*(out / "bin").iterdir(), out / "lib/libtorch_cpu.so"):
        with file.open("rb") as opened:
            assert opened.read(4) == b"\x7fELF"
    assert not any(path.suffix == ".a" for path in (out / "lib").iterdir())


def test_it_serves_from_there_with_a_pods_configuration(collected, build_dir, model, monkeypatch, tmp_path):
    """The library is found where the image has it, and the driver beside it, as the container toolkit puts one in."""
    form, out, _ = collected
    text = (ROOT / "deploy/kubernetes" / {"cpu": "base", "cuda": "gpu"}[form] / "lorad.toml").read_text()
    assert text.count('"/srv/lorad') == 3
    (tmp_path / "lorad.toml").write_text(text.replace('"/srv/lorad', f'"{tmp_path}'))
    for folder in ("adapters", "state"):
        (tmp_path / folder).mkdir()
    libraries = [out / "lib"] + ([build_dir.resolve() / "emulated/driver"] if form == "cuda" else [])
    monkeypatch.setenv("LD_LIBRARY_PATH", ":".join(map(str, libraries)))
    monkeypatch.setattr(Daemon, "device", "")  # the configuration says it
    # The folder for jobs as kubernetes/tuning has it; the pool smaller, and ports that are free.
    flags = [f"--config={tmp_path / 'lorad.toml'}", f"--state-dir={tmp_path / 'state'}", "--memory-bytes=8MiB"]
    with Daemon(out, model, *flags) as daemon:
        assert daemon.inference.GetModelInfo(inference_pb2.GetModelInfoRequest()).device == form
        assert generate(daemon, [5, 6, 7], max_tokens=3, ignore_eos=True).usage[0].completion_tokens == 3
        mapped = pathlib.Path(f"/proc/{daemon.process.pid}/maps").read_text()
        assert f"{out}/lib/libtorch_cpu.so" in mapped and ".venv" not in mapped and "site-packages" not in mapped


def library(folder, name, *linked_with):
    """A shared object of this name, linked with those beside it."""
    folder.mkdir(exist_ok=True)
    command = ["g++", "-shared", "-x", "c++", "/dev/null", "-x", "none", "-o", folder / name, f"-Wl,-soname,{name}", f"-L{folder}", "-Wl,--no-as-needed"]
    subprocess.run([*command, *(f"-l:{other}" for other in linked_with)], check=True)


def test_what_is_not_found_is_named_and_a_drivers_is_the_hosts(built, tmp_path):
    (tmp_path / "bin").symlink_to(built / "bin")
    lib = tmp_path / "lib"
    for name in ("libcuda.so.1", "libnvidia-ml.so.1", "libcublas.so.13"):
        library(lib, name)
    library(lib, "liblorad_cuda.so", "libcuda.so.1", "libnvidia-ml.so.1", "libcublas.so.13")
    for path in list(lib.glob("libcu*")) + list(lib.glob("libnvidia*")):
        path.unlink()
    shutil.copy(built / "lib/liblorad_sentencepiece.so", lib)
    done = collect("--cuda", tmp_path / "bin", tmp_path / "out")
    assert done.returncode == 1
    assert "not found: libcublas.so.13; " in done.stderr and "scripts/setup --gpu" in done.stderr


def test_what_is_not_built_is_named_and_a_folder_in_use_is_left_alone(built, tmp_path):
    (tmp_path / "bin").symlink_to(built / "bin")
    done = collect("--cuda", tmp_path / "bin", tmp_path / "out")
    assert done.returncode == 1 and "liblorad_cuda.so; build the targets" in done.stderr
    (tmp_path / "used/lib").mkdir(parents=True)
    done = collect(tmp_path / "bin", tmp_path / "used")
    assert done.returncode == 1 and "not empty" in done.stderr
    assert collect(tmp_path / "bin").returncode == 2


def stages():
    """{name: text} of the container file's stages; the last one has none."""
    parts = re.split(r"^FROM (\S+)(?: AS (\S+))?\n", CONTAINERFILE, flags=re.M)
    return {name or "": (base, text) for base, name, text in zip(parts[1::3], parts[2::3], parts[3::3])}


def test_only_the_image_for_gpus_asks_for_a_driver_and_refuses_to_do_without():
    made = stages()
    assert made[""][0] == "lorad-${CUDA}" and made["lorad-1"][0] == "lorad-0"
    assert "ARG CUDA=0\n" in CONTAINERFILE.split("FROM", 1)[0], "0 unless it is asked for"
    assert "NVIDIA" not in "".join(re.findall("^[A-Z]+ .*", made["lorad-0"][1], re.M))
    assert re.search(r"^ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility$", made["lorad-1"][1], re.M)
    assert '"--device=cuda"' in made["lorad-1"][1] and "--device" not in made["lorad-0"][1]


def test_the_image_has_the_folders_as_collect_made_them():
    """lorad looks for liblorad_cuda.so in ../lib of itself."""
    places = dict(re.findall(r"^COPY --from=build /out/(bin|lib) (\S+)$", stages()["lorad-0"][1], re.M))
    assert pathlib.Path(places["bin"]).parent == pathlib.Path(places["lib"]).parent and pathlib.Path(places["lib"]).name == "lib"
    assert f"LD_LIBRARY_PATH={places['lib']}" in CONTAINERFILE and f"PATH={places['bin']}:" in CONTAINERFILE


def test_the_container_file_builds_what_the_project_has():
    build = stages()["build"][1]
    default = re.search(r'CMAKE_CUDA_ARCHITECTURES "(\S+)" CACHE', (ROOT / "cmake/lorad_cuda.cmake").read_text()).group(1)
    assert f'ARG CUDA_ARCHITECTURES="{default}"' in build
    assert "scripts/setup --gpu" in build and (ROOT / "scripts/setup").read_text().count("--gpu)") == 1
    presets = (ROOT / "CMakePresets.json").read_text()
    for preset in re.findall(r"--preset (\w+)", build):
        assert f'"name": "{preset}", "inherits"' in presets
        assert f"cmake --build build/{preset} " in build and f"build/{preset}/bin /out" in build
