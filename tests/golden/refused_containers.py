"""safetensors files that lie. Each entry takes a sound header and its data and gives (file, code, names)."""

import copy
import json

from files import safetensors_bytes

DAMAGED, UNIMPLEMENTED = "DATA_LOSS", "UNIMPLEMENTED"


def entry(field, value, code=DAMAGED, names=()):
    """The first tensor with one field of its entry replaced; the message must name the tensor."""
    def make(header, data):
        header = copy.deepcopy(header)
        first = next(iter(header))
        header[first][field] = value
        return safetensors_bytes(header, data), code, [first, *names]
    return make


def raw(make_bytes):
    return lambda header, data: (make_bytes(header, data), DAMAGED, [])


def text_of(header) -> str:
    return json.dumps(header, separators=(",", ":"))


def duplicate_name(header, data):
    first = next(iter(header))
    text = text_of(header)
    repeated = text[:-1] + "," + json.dumps(first) + ":" + json.dumps(header[first]) + "}"
    return safetensors_bytes(repeated, data), DAMAGED, [first]


def duplicate_field(header, data):
    first = next(iter(header))
    text = text_of(header).replace('"dtype":"F32"', '"dtype":"F32","dtype":"F32"', 1)
    return safetensors_bytes(text, data), DAMAGED, [first]


def overlap(header, data):
    """Two tensors of one size on the same bytes; the bytes of the second are cut out so that the file's size fits."""
    header = copy.deepcopy(header)
    names = list(header)
    twin = names[1]
    begin, end = header[twin]["data_offsets"]
    size = end - begin
    header[twin]["data_offsets"] = header[names[0]]["data_offsets"]
    for name in names[2:]:
        header[name]["data_offsets"] = [x - size for x in header[name]["data_offsets"]]
    return safetensors_bytes(header, data[:begin] + data[end:]), DAMAGED, []


def hole(header, data):
    header = copy.deepcopy(header)
    last = list(header)[-1]
    begin, end = header[last]["data_offsets"]
    header[last]["data_offsets"] = [begin + 64, end + 64]
    return safetensors_bytes(header, data[:begin] + bytes(64) + data[begin:]), DAMAGED, [last]


def removed_field(field):
    def make(header, data):
        header = copy.deepcopy(header)
        first = next(iter(header))
        del header[first][field]
        return safetensors_bytes(header, data), DAMAGED, [first]
    return make


def extra_entry(name, value):
    def make(header, data):
        return safetensors_bytes(header | {name: value}, data), DAMAGED, [name] if name.isprintable() else []
    return make


def bad_utf8(header, data):
    text = text_of(header).encode().replace(b"q_proj", b"q_\xffroj", 1)
    return safetensors_bytes(text, data), DAMAGED, []


CONTAINERS = {
    "file_empty": raw(lambda header, data: b""),
    "file_of_four_bytes": raw(lambda header, data: b"\x08\0\0\0"),
    "no_tensors": raw(lambda header, data: safetensors_bytes({}, b"")),
    "data_cut": raw(lambda header, data: safetensors_bytes(header, data[:-100])),
    "header_cut": raw(lambda header, data: safetensors_bytes(header, b"")[:200]),
    "header_length_zero": raw(lambda header, data: safetensors_bytes(header, data, header_bytes=0)),
    "header_length_2_60": raw(lambda header, data: safetensors_bytes(header, data, header_bytes=2**60)),
    "header_length_all_ones": raw(lambda header, data: safetensors_bytes(header, data, header_bytes=2**64 - 1)),
    "header_length_past_the_end": raw(
        lambda header, data: safetensors_bytes(header, data, header_bytes=len(text_of(header)) + len(data) + 1)),
    "header_length_one_short": raw(
        lambda header, data: safetensors_bytes(header, data, header_bytes=len(text_of(header)) - 1)),
    "header_not_json": raw(lambda header, data: safetensors_bytes("{not json}", data)),
    "header_array": raw(lambda header, data: safetensors_bytes("[]", b"")),
    "header_deeply_nested": raw(lambda header, data: safetensors_bytes('{"a":' * 5000 + "1" + "}" * 5000, b"")),
    "header_not_utf8": bad_utf8,
    "not_safetensors": raw(lambda header, data: b"PK\x03\x04" + bytes(60)),
    "trailing_bytes": raw(lambda header, data: safetensors_bytes(header, data + b"\0" * 16)),
    "duplicate_name": duplicate_name,
    "duplicate_field": duplicate_field,
    "overlap": overlap,
    "hole": hole,
    "dtype_missing": removed_field("dtype"),
    "shape_missing": removed_field("shape"),
    "offsets_missing": removed_field("data_offsets"),
    "dtype_smaller_than_the_data": entry("dtype", "F16"),
    "dtype_larger_than_the_data": entry("dtype", "F64"),
    "dtype_unknown": entry("dtype", "F99", names=["F99"]),
    "dtype_number": entry("dtype", 32),
    "dtype_integer": entry("dtype", "I32", code=UNIMPLEMENTED, names=["I32"]),
    "shape_negative": entry("shape", [-2, -32]),
    "shape_huge": entry("shape", [2**40, 2**40]),
    "shape_past_64_bits": entry("shape", [2**70, 1]),
    "shape_wraps_to_fit": entry("shape", [2**62 + 16, 4]),  # 4-byte elements: (2^64 + 64) * 4 is 256 modulo 2^64
    "shape_larger": entry("shape", [4, 32]),
    "shape_fraction": entry("shape", [2.0, 32.0]),
    "shape_string": entry("shape", "2x32"),
    "shape_of_many_dimensions": entry("shape", [1] * 2000 + [2, 32]),
    "offsets_reversed": entry("data_offsets", [256, 0]),
    "offsets_negative": entry("data_offsets", [-256, 0]),
    "offsets_past_the_end": entry("data_offsets", [2**40, 2**40 + 256]),
    "offsets_near_2_63": entry("data_offsets", [2**63 - 256, 2**63]),
    "offsets_three": entry("data_offsets", [0, 256, 256]),
    "entry_not_an_object": extra_entry("stray", 5),
    "entry_null": extra_entry("stray", None),
    "metadata_of_numbers": lambda header, data: (safetensors_bytes({"__metadata__": {"format": 3}} | header, data), DAMAGED, []),
}
