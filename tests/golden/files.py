"""Small writers shared by the generators: JSON with one case a line, and raw safetensors files."""

import json
import pathlib
import struct

import numpy


def write_json(path: pathlib.Path, value) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def read_json(path: pathlib.Path):
    return json.loads(path.read_text())


def write_cases(path: pathlib.Path, cases: list) -> None:
    """A JSON list with one case a line, so that a regenerated case is one line of a diff."""
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    path.write_text(f"[\n{lines}\n]\n")


def safetensors_bytes(header: dict | str | bytes, data: bytes, header_bytes: int | None = None) -> bytes:
    """A safetensors container from its parts, none of them checked: the refused files are built with it."""
    text = json.dumps(header, separators=(",", ":")) if isinstance(header, dict) else header
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw) if header_bytes is None else header_bytes) + raw + data


def split_safetensors(blob: bytes) -> tuple[dict, bytes]:
    length = struct.unpack("<Q", blob[:8])[0]
    return json.loads(blob[8 : 8 + length]), blob[8 + length :]


def pack_f32(tensors: dict) -> tuple[dict, bytes]:
    """Header and data of float32 arrays, laid out in the order given."""
    header, data = {}, b""
    for name, array in tensors.items():
        raw = numpy.ascontiguousarray(array, dtype="<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    return header, data
