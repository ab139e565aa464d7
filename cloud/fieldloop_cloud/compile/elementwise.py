"""Elementwise op methods of `Graph`: arithmetic, comparisons, functions, casts.

Operands broadcast as in NumPy; a value becomes a constant of the other operand's dtype.
"""

from typing import Any

from ai_edge_litert import schema_py_generated as schema

from fieldloop_cloud.compile.flatbuffer import TENSOR_TYPES
from fieldloop_cloud.compile.tensor import Operand, Tensor, broadcast

NDIM_LIMIT = 4
"""Broadcasting kernels of older runtimes stop at four dimensions."""


class Elementwise:
    """Op methods on one or two tensors, element by element."""

    emit: Any
    constant: Any
    operand: Any

    # Arithmetic, elementwise with broadcasting.

    def add(self, a: Operand, b: Operand) -> Tensor:
        """Sum of both."""
        return self._binary("ADD", a, b, schema.AddOptionsT())

    def sub(self, a: Operand, b: Operand) -> Tensor:
        """Difference a - b."""
        return self._binary("SUB", a, b, schema.SubOptionsT())

    def mul(self, a: Operand, b: Operand) -> Tensor:
        """Product of both."""
        return self._binary("MUL", a, b, schema.MulOptionsT())

    def div(self, a: Operand, b: Operand) -> Tensor:
        """Quotient a / b."""
        return self._binary("DIV", a, b, schema.DivOptionsT())

    def minimum(self, a: Operand, b: Operand) -> Tensor:
        """The smaller one; with a NaN on either side the result depends on the runtime."""
        return self._binary("MINIMUM", a, b, schema.MaximumMinimumOptionsT())

    def maximum(self, a: Operand, b: Operand) -> Tensor:
        """The larger one; with a NaN on either side the result depends on the runtime."""
        return self._binary("MAXIMUM", a, b, schema.MaximumMinimumOptionsT())

    def pow(self, a: Operand, b: Operand) -> Tensor:
        """A to the power of b."""
        return self._binary("POW", a, b, schema.PowOptionsT())

    def squared_difference(self, a: Operand, b: Operand) -> Tensor:
        """(a - b)²."""
        return self._binary("SQUARED_DIFFERENCE", a, b, schema.SquaredDifferenceOptionsT())

    def floor_div(self, a: Operand, b: Operand) -> Tensor:
        """Quotient rounded down."""
        return self._binary("FLOOR_DIV", a, b, schema.FloorDivOptionsT())

    def floor_mod(self, a: Operand, b: Operand) -> Tensor:
        """Remainder with the divisor's sign."""
        return self._binary("FLOOR_MOD", a, b, schema.FloorModOptionsT())

    # Comparisons and logic: bool results.

    def greater(self, a: Operand, b: Operand) -> Tensor:
        """A > b; False for NaN."""
        return self._compare("GREATER", a, b, schema.GreaterOptionsT())

    def greater_equal(self, a: Operand, b: Operand) -> Tensor:
        """A >= b; False for NaN."""
        return self._compare("GREATER_EQUAL", a, b, schema.GreaterEqualOptionsT())

    def less(self, a: Operand, b: Operand) -> Tensor:
        """A < b; False for NaN."""
        return self._compare("LESS", a, b, schema.LessOptionsT())

    def less_equal(self, a: Operand, b: Operand) -> Tensor:
        """A <= b; False for NaN."""
        return self._compare("LESS_EQUAL", a, b, schema.LessEqualOptionsT())

    def equal(self, a: Operand, b: Operand) -> Tensor:
        """A == b; False for NaN."""
        return self._compare("EQUAL", a, b, schema.EqualOptionsT())

    def not_equal(self, a: Operand, b: Operand) -> Tensor:
        """A != b; `not_equal(x, x)` finds NaN."""
        return self._compare("NOT_EQUAL", a, b, schema.NotEqualOptionsT())

    def logical_and(self, a: Operand, b: Operand) -> Tensor:
        """Both."""
        return self._compare("LOGICAL_AND", a, b, schema.LogicalAndOptionsT())

    def logical_or(self, a: Operand, b: Operand) -> Tensor:
        """Either."""
        return self._compare("LOGICAL_OR", a, b, schema.LogicalOrOptionsT())

    def logical_not(self, a: Tensor) -> Tensor:
        """Not a."""
        return self._unary("LOGICAL_NOT", a, schema.LogicalNotOptionsT())

    def select(self, condition: Operand, a: Operand, b: Operand) -> Tensor:
        """A where condition holds, else b; all broadcast (SELECT_V2)."""
        test = self.operand(condition)
        x = self.operand(a, b if isinstance(b, Tensor) else None)
        y = self.operand(b, x)
        shape = broadcast(test.shape, broadcast(x.shape, y.shape))
        return self._one("SELECT_V2", [test, x, y], shape, x.dtype, schema.SelectV2OptionsT())

    # Elementwise functions of one tensor.

    def exp(self, a: Tensor) -> Tensor:
        """E to the power of a."""
        return self._unary("EXP", a, schema.ExpOptionsT())

    def log(self, a: Tensor) -> Tensor:
        """Natural logarithm."""
        return self._unary("LOG", a)

    def sqrt(self, a: Tensor) -> Tensor:
        """Square root."""
        return self._unary("SQRT", a)

    def rsqrt(self, a: Tensor) -> Tensor:
        """One over the square root."""
        return self._unary("RSQRT", a)

    def square(self, a: Tensor) -> Tensor:
        """A squared."""
        return self._unary("SQUARE", a, schema.SquareOptionsT())

    def abs(self, a: Tensor) -> Tensor:
        """Absolute value."""
        return self._unary("ABS", a, schema.AbsOptionsT())

    def neg(self, a: Tensor) -> Tensor:
        """Minus a."""
        return self._unary("NEG", a, schema.NegOptionsT())

    def floor(self, a: Tensor) -> Tensor:
        """Rounded down."""
        return self._unary("FLOOR", a)

    def ceil(self, a: Tensor) -> Tensor:
        """Rounded up."""
        return self._unary("CEIL", a)

    def round(self, a: Tensor) -> Tensor:
        """Rounded to the nearest, halves to even."""
        return self._unary("ROUND", a)

    def sin(self, a: Tensor) -> Tensor:
        """Sine."""
        return self._unary("SIN", a)

    def cos(self, a: Tensor) -> Tensor:
        """Cosine."""
        return self._unary("COS", a, schema.CosOptionsT())

    def tanh(self, a: Tensor) -> Tensor:
        """Hyperbolic tangent."""
        return self._unary("TANH", a)

    def logistic(self, a: Tensor) -> Tensor:
        """1 / (1 + exp(-a))."""
        return self._unary("LOGISTIC", a)

    def relu(self, a: Tensor) -> Tensor:
        """max(a, 0)."""
        return self._unary("RELU", a)

    def softmax(self, a: Tensor) -> Tensor:
        """Softmax over the last axis."""
        options = schema.SoftmaxOptionsT()
        options.beta = 1.0
        return self._unary("SOFTMAX", a, options)

    def log_softmax(self, a: Tensor) -> Tensor:
        """Logarithm of the softmax over the last axis."""
        return self._unary("LOG_SOFTMAX", a, schema.LogSoftmaxOptionsT())

    def bitcast(self, a: Tensor, dtype: str) -> Tensor:
        """The same bits as a dtype of the same size."""
        return self._one("BITCAST", [a], a.shape, dtype, schema.BitcastOptionsT())

    def cast(self, a: Tensor, dtype: str) -> Tensor:
        """A as `dtype`; floats are cut towards zero, bool becomes 0 and 1."""
        if a.dtype == dtype:
            return a
        options = schema.CastOptionsT()
        options.inDataType, options.outDataType = TENSOR_TYPES[a.dtype], TENSOR_TYPES[dtype]
        return self._one("CAST", [a], a.shape, dtype, options)

    def dequantize(self, a: Tensor, *, per_channel: bool = False) -> Tensor:
        """A float16 or int8 tensor as float32."""
        version = 5 if per_channel else 1
        return self._one(
            "DEQUANTIZE", [a], a.shape, "float32", schema.DequantizeOptionsT(), at_least=version
        )

    # What the methods above are made of.

    def _one(
        self,
        op: str,
        inputs: list[Tensor],
        shape: tuple[int, ...],
        dtype: str,
        options: Any = None,
        **features: Any,
    ) -> Tensor:
        made: tuple[Tensor, ...] = self.emit(op, inputs, [(shape, dtype)], options, **features)
        return made[0]

    def _pair(self, a: Operand, b: Operand) -> tuple[Tensor, Tensor]:
        x = self.operand(a, b if isinstance(b, Tensor) else None)
        y = self.operand(b, x)
        if x.dtype != y.dtype:
            message = f"operands are {x.dtype} and {y.dtype}; cast one first"
            raise ValueError(message)
        if max(x.rank, y.rank) > NDIM_LIMIT and x.shape != y.shape:
            message = f"broadcasting beyond {NDIM_LIMIT} dimensions: {x.shape} and {y.shape}"
            raise ValueError(message)
        return x, y

    def _binary(self, op: str, a: Operand, b: Operand, options: Any) -> Tensor:
        x, y = self._pair(a, b)
        return self._one(op, [x, y], broadcast(x.shape, y.shape), x.dtype, options)

    def _compare(self, op: str, a: Operand, b: Operand, options: Any) -> Tensor:
        x, y = self._pair(a, b)
        return self._one(op, [x, y], broadcast(x.shape, y.shape), "bool", options)

    def _unary(self, op: str, a: Tensor, options: Any = None) -> Tensor:
        return self._one(op, [a], a.shape, a.dtype, options)
