"""scripts/kernel-stacks: what it says of kernels that keep something in local memory, by what cuobjdump prints of them."""

import importlib.machinery
import importlib.util
import pathlib

PATH = pathlib.Path(__file__).resolve().parents[2] / "scripts/kernel-stacks"
LOADER = importlib.machinery.SourceFileLoader("kernel_stacks", str(PATH))
kernel_stacks = importlib.util.module_from_spec(importlib.util.spec_from_loader("kernel_stacks", LOADER))
LOADER.exec_module(kernel_stacks)

SHRINK = "_ZN5lorad4cuda12ShrinkKernelI13__nv_bfloat16EEvNS0_13SegmentedWorkENS0_11ShrinkInputIT_EE"
TABLED = "_ZN5lorad4cuda12_GLOBAL__N_117TabledPairsKernelENS0_15TabledPairsWorkE"
MERGE = "_ZN10flashinfer17MergeStatesKernelILj8EEEvPf"


def usage(stacks, architecture="sm_90a", local=0):
    lines = ["", "Fatbin elf code:", "================", f"arch = {architecture}", "code version = [1,8]", "", "Resource usage:", " Common:", "  GLOBAL:0"]
    for name, stack in stacks.items():
        lines += [f" Function {name}:", f"  REG:128 STACK:{stack} SHARED:2048 LOCAL:{local} CONSTANT[0]:720 TEXTURE:0 SURFACE:0 SAMPLER:0"]
    return "\n".join(lines)


def problems(text, allowed=None):
    return kernel_stacks.problems(text, allowed or {})[0]


def test_a_kernel_of_ours_that_spills_is_named_with_bytes_limit_and_hint():
    (line,) = problems(usage({SHRINK: 48, TABLED: 0}))
    assert line.startswith("ShrinkKernel<__nv_bfloat16> (sm_90a): local memory in bytes: 48; limit: 0; ")
    (line,) = problems(usage({TABLED: 0}, local=16))
    assert line.startswith("TabledPairsKernel (sm_90a): local memory in bytes: 16; limit: 0; ")


def test_kernels_of_libraries_are_not_ours():
    assert problems(usage({MERGE: 720, SHRINK: 0})) == []


def test_what_is_allowed_may_be_needed_but_no_more():
    allowed = {"ShrinkKernel<__nv_bfloat16>": 8}
    assert problems(usage({SHRINK: 8}), allowed) == []
    (line,) = problems(usage({SHRINK: 8}) + usage({SHRINK: 16}, "sm_80"), allowed)
    assert "(sm_80): local memory in bytes: 16; limit: 8; " in line


def test_what_is_counted_is_told_by_architecture():
    text = usage({SHRINK: 0, TABLED: 0}) + usage({SHRINK: 0, MERGE: 720}, "sm_80")
    assert kernel_stacks.problems(text, {}) == ([], "1 of sm_80, 2 of sm_90a")


def test_what_is_allowed_and_no_longer_needed_is_a_problem():
    (line,) = problems(usage({SHRINK: 0}), {"ShrinkKernel<__nv_bfloat16>": 8})
    assert "take it off the list" in line


def test_a_file_without_kernels_of_ours_proves_nothing():
    assert len(problems(usage({MERGE: 0}))) == 1
    assert len(problems("")) == 1
