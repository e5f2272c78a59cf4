"""Element types: ONNX's numbers, the names that the record has for them, and which of them are numbers of a network."""

from onnx import TensorProto

# ONNX's element types by the names that torch has for them.
DTYPES: dict[int, str] = {
    TensorProto.FLOAT: "float32", TensorProto.DOUBLE: "float64", TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16", TensorProto.FLOAT8E4M3FN: "float8_e4m3fn", TensorProto.FLOAT8E5M2: "float8_e5m2",
    TensorProto.COMPLEX64: "complex64", TensorProto.COMPLEX128: "complex128", TensorProto.INT64: "int64",
    TensorProto.INT32: "int32", TensorProto.INT16: "int16", TensorProto.INT8: "int8", TensorProto.UINT64: "uint64",
    TensorProto.UINT32: "uint32", TensorProto.UINT16: "uint16", TensorProto.UINT8: "uint8", TensorProto.BOOL: "bool",
    TensorProto.INT4: "int4", TensorProto.UINT4: "uint4", TensorProto.FLOAT4E2M1: "float4_e2m1fn",
    **{code: name.lower() for name, code in TensorProto.DataType.items() if name in ("INT2", "UINT2")},  # since onnx 1.20
}  # fmt: skip
_CODES = {name: code for code, name in DTYPES.items()}
_ONNX_NAMES = {code: name for name, code in TensorProto.DataType.items()}


def dtype_of(code: int) -> str:
    """The name of an element type; those that the record does not know keep ONNX's (STRING, FLOAT8E5M2FNUZ)."""
    return DTYPES.get(code) or _ONNX_NAMES.get(code, "UNDEFINED")


def code_of(dtype: str) -> int:
    return _CODES.get(dtype) or TensorProto.DataType.Value(dtype)


def recorded(dtype: str) -> str:
    """The name in the record, where a type that torch does not have, such as a string, is a byte."""
    return dtype if dtype in _CODES else "uint8"


FLOATS = {"float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"} | {
    dtype_of(code) for name, code in TensorProto.DataType.items() if name.startswith("FLOAT")
}
QUANTISED = {"int8", "uint8", "int4", "uint4", "int2", "uint2"}
