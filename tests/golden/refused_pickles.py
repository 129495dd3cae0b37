"""Files of torch.save that must be refused. Each entry takes the tensors of a sound adapter and gives (file, code, names)."""

import io
import os
import pickle
import zipfile

import torch

DAMAGED, UNIMPLEMENTED = "DATA_LOSS", "UNIMPLEMENTED"


def saved(content, **options) -> bytes:
    out = io.BytesIO()
    torch.save(content, out, **options)
    return out.getvalue()


def tensors_of(arrays: dict) -> dict:
    return {name: torch.from_numpy(array).float() for name, array in arrays.items()}


def rezipped(arrays: dict, change, **options) -> bytes:
    """A sound file, every entry of it passed through change(name, bytes) -> bytes, None to leave it out."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved(tensors_of(arrays)))) as old, zipfile.ZipFile(out, "w", **options) as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
    return out.getvalue()


def entry(suffix, change):
    return lambda arrays: rezipped(arrays, lambda name, old: change(old) if name.endswith(suffix) else old)


def with_pickle(blob: bytes):
    return entry("/data.pkl", lambda old: blob)


class Runs:
    """Unpickling this calls os.system."""

    def __reduce__(self):
        return os.system, ("touch /tmp/lorad_ran_a_pickle",)


def repeated_name(arrays: dict) -> bytes:
    out = io.BytesIO(rezipped(arrays, lambda name, old: old))
    with zipfile.ZipFile(out, "a") as file:
        file.writestr(next(name for name in file.namelist() if name.endswith("/data/0")), b"twice")
    return out.getvalue()


STORAGE = b"((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK@tQ"  # key "0", 64 elements


def one_tensor(offset=b"K\0", shape=b"K\x02K \x86", strides=b"K K\x01\x86") -> bytes:
    """{"a": a view of storage "0"}; numbers and tuples as opcodes."""
    build = b"ctorch._utils\n_rebuild_tensor_v2\n" + STORAGE + offset + shape + strides + b"\x89N" + b"tR"
    return b"\x80\x02}X\x01\0\0\0a" + build + b"s."


PICKLES = {
    "pickle_runs_a_program": (lambda arrays: saved(tensors_of(arrays) | {"x": Runs()}), UNIMPLEMENTED, ["posix.system"]),
    "pickle_runs_a_program_protocol_4": (
        lambda arrays: saved(tensors_of(arrays) | {"x": Runs()}, pickle_protocol=4), UNIMPLEMENTED, ["posix.system"]),
    "pickle_evaluates": (with_pickle(b"\x80\x02cbuiltins\neval\n(X\x01\0\0\x001tR."), UNIMPLEMENTED, ["builtins.eval"]),
    "pickle_of_instances": (with_pickle(b"(S'ls'\nios\nsystem\n."), UNIMPLEMENTED, ["opcode 0x53"]),
    "pickle_protocol_9": (with_pickle(b"\x80\x09}."), UNIMPLEMENTED, ["protocol 9"]),
    "pickle_holds_a_number": (lambda arrays: saved(tensors_of(arrays) | {"steps": 3}), UNIMPLEMENTED, ["steps", "a number"]),
    "pickle_holds_a_dict": (lambda arrays: saved({"model": tensors_of(arrays)}), UNIMPLEMENTED, ["model", "a dict"]),
    "pickle_is_a_list": (lambda arrays: saved(list(tensors_of(arrays).values())), DAMAGED, ["no dictionary"]),
    "pickle_empty": (with_pickle(b""), DAMAGED, ["ends early"]),
    "pickle_cut": (entry("/data.pkl", lambda old: old[:-20]), DAMAGED, ["ends early"]),
    "pickle_of_one_name_twice": (with_pickle(one_tensor()[:-1] + one_tensor()[3:]), DAMAGED, ["duplicate name", "a"]),
    "pickle_recalls_nothing": (with_pickle(b"\x80\x02h\x07."), DAMAGED, ["7"]),
    "pickle_pops_nothing": (with_pickle(b"\x80\x02\x87."), DAMAGED, ["empty stack"]),
    "pickle_text_longer_than_the_file": (with_pickle(b"\x80\x04\x8d" + b"\xff" * 8 + b"."), DAMAGED, ["ends early"]),
    "view_past_its_storage": (with_pickle(one_tensor(offset=b"K\x01")), DAMAGED, ["offset: 1", "elements: 64"]),
    "view_of_negative_stride": (with_pickle(one_tensor(strides=b"J\xff\xff\xff\xffK\x01\x86")), DAMAGED, ["stride"]),
    "view_past_64_bits": (
        with_pickle(one_tensor(shape=b"\x8a\x08" + b"\xff" * 7 + b"\x7fK \x86", strides=b"M\xff\xffK\x01\x86")), DAMAGED, ["view"]),
    "view_of_two_ranks": (with_pickle(one_tensor(strides=b"K\x01\x85")), DAMAGED, ["dimensions"]),
    "storage_missing": (entry("/data/1", lambda old: None), DAMAGED, ["no storage 1"]),
    "storage_cut": (entry("/data/1", lambda old: old[:-4]), DAMAGED, ["storage of elements"]),
    "byteorder_big": (entry("/byteorder", lambda old: b"big"), UNIMPLEMENTED, ["byteorder: big"]),
    "zip_without_pickle": (entry("/data.pkl", lambda old: None), DAMAGED, ["data.pkl"]),
    "zip_compressed": (
        lambda arrays: rezipped(arrays, lambda name, old: old, compression=zipfile.ZIP_DEFLATED), UNIMPLEMENTED, ["compression"]),
    "zip_of_one_name_twice": (repeated_name, DAMAGED, ["duplicate name", "data/0"]),
    "zip_cut": (lambda arrays: saved(tensors_of(arrays))[:-30], DAMAGED, ["zip"]),
    "zip_of_four_bytes": (lambda arrays: b"PK\x03\x04", DAMAGED, ["zip"]),
    "torch_before_zip": (
        lambda arrays: saved(tensors_of(arrays), _use_new_zipfile_serialization=False), UNIMPLEMENTED, ["without zip"]),
    "plain_pickle": (lambda arrays: pickle.dumps({"a": 1}), UNIMPLEMENTED, ["without zip"]),
    "not_a_pickle": (lambda arrays: b"#!/bin/sh\nexit 0\n", DAMAGED, ["not a file of torch.save"]),
}
