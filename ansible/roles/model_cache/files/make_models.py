"""Make the tiny ONNX model and the manifest of the model folder; print what changed.

    make_models.py DIRECTORY

The model is written byte by byte, for an ONNX file is a protocol buffer and this one is small: the
image needs no package more, and the same bytes come out everywhere and always.

    y = relu(x @ weight + bias)        x: float[batch, 4]    y: float[batch, 3]
"""
# ruff: noqa: INP001, T201 - a program that is sent to the guest, not a module

import hashlib
import struct
import sys
from pathlib import Path

IR_VERSION = 8
OPSET = 17
FLOAT = 1  # TensorProto.DataType.FLOAT
INPUTS, OUTPUTS = 4, 3
# Multiples of 1/4 are exact in binary, so a result can be compared for equality.
WEIGHT = [((7 * k) % 11 - 5) / 4 for k in range(INPUTS * OUTPUTS)]
BIAS = [0.5, -0.25, 1.0]
MANIFEST = "SHA256SUMS"
BLOCK = 1 << 20
_SEVEN_BITS = 0x7F


def varint(value: int) -> bytes:
    """Encode a number the way protocol buffers do, seven bits at a time."""
    out = bytearray()
    while value > _SEVEN_BITS:
        out.append(value & _SEVEN_BITS | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def number(field: int, value: int) -> bytes:
    """Encode a field that holds a number."""
    return varint(field << 3) + varint(value)


def text(field: int, value: str | bytes) -> bytes:
    """Encode a field that holds text, bytes or a message."""
    data = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(data)) + data


def tensor(name: str, dims: list[int], values: list[float]) -> bytes:
    """Encode a TensorProto: dims 1, data_type 2, name 8, raw_data 9."""
    shape = b"".join(number(1, size) for size in dims)
    raw = struct.pack(f"<{len(values)}f", *values)
    return shape + number(2, FLOAT) + text(8, name) + text(9, raw)


def value(name: str, width: int) -> bytes:
    """Encode a ValueInfoProto for float[batch, width]."""
    shape = text(1, text(2, "batch")) + text(1, number(1, width))
    return text(1, name) + text(2, text(1, number(1, FLOAT) + text(2, shape)))


def node(kind: str, inputs: list[str], output: str) -> bytes:
    """Encode a NodeProto: input 1, output 2, name 3, op_type 4."""
    names = b"".join(text(1, name) for name in inputs)
    return names + text(2, output) + text(3, kind.lower()) + text(4, kind)


def graph() -> bytes:
    """Encode the GraphProto: node 1, name 2, initializer 5, input 11, output 12."""
    return b"".join((
        text(1, node("Gemm", ["x", "weight", "bias"], "sum")),
        text(1, node("Relu", ["sum"], "y")),
        text(2, "tiny"),
        text(5, tensor("weight", [INPUTS, OUTPUTS], WEIGHT)),
        text(5, tensor("bias", [OUTPUTS], BIAS)),
        text(11, value("x", INPUTS)),
        text(12, value("y", OUTPUTS)),
    ))  # fmt: skip


def model() -> bytes:
    """Encode the ModelProto: ir_version 1, producer 2, graph 7, opset_import 8."""
    opset = text(8, number(2, OPSET))
    return number(1, IR_VERSION) + text(2, "vaultbuild") + text(7, graph()) + opset


def put(path: Path, data: bytes) -> None:
    """Write a read-only file if it does not have these bytes."""
    if path.is_file() and path.read_bytes() == data:
        return
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    path.chmod(0o444)
    print(path)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, which may be larger than the memory."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            found.update(block)
    return found.hexdigest()


def manifest(folder: Path) -> bytes:
    """Return the lines of the manifest for everything below ``folder``."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    digests = {path: digest(path) for path in files}
    lines = (f"{digest}  {path.relative_to(folder)}\n" for path, digest in digests.items())
    return "".join(lines).encode()


def main(folder: Path) -> None:
    """Make the models below ``folder``."""
    (folder / "tiny").mkdir(mode=0o755, exist_ok=True)
    put(folder / "tiny" / "model.onnx", model())
    put(folder / MANIFEST, manifest(folder))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
