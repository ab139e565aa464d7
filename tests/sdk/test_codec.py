"""Raw values in, answers out: what fits is exact, what does not is refused by name."""

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldloop.codec import Codec, dequantize, quantize
from fieldloop.errors import ConfigError, ModelRuntimeError, SignatureError
from fieldloop.ranges import float32_limits
from fieldloop.signature import FeatureSpec, Signature, TensorSpec, one_target

LABELS = ("ok", "worn", "broken")


def signature(*, features, outputs=None, task="classification", labels=LABELS, **x):
    return Signature(
        task=task,
        inputs=(TensorSpec(name="x", **{"shape": (-1, len(features)), "dtype": "float32"} | x),),
        outputs=outputs
        or (TensorSpec(name="p", shape=(-1, 3), dtype="float32", role="probabilities"),),
        features=tuple(features),
        targets=one_target(tuple(labels)),
    )


NUMERIC = Codec(
    signature(
        features=[
            FeatureSpec(name="current", unit="A", low=0.3, high=2.0),
            FeatureSpec(name="voltage", unit="V", low=0.0),
            FeatureSpec(name="speed", unit="1/s"),
        ]
    )
)
MIXED = Codec(
    signature(
        features=[
            FeatureSpec(name="fuel", categories=("petrol", "diesel", 7, True)),
            FeatureSpec(name="age", missing_allowed=True),
            FeatureSpec(name="site", categories=("a", "b"), unknown="encode", missing_allowed=True),
        ]
    )
)

numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
numeric_rows = st.lists(numbers, min_size=3, max_size=3)


class TestEncodingNumbers:
    @given(numeric_rows)
    def test_every_spelling_of_a_row_gives_the_same_numbers(self, values):
        expected = np.array([values], dtype=np.float32)
        named = dict(zip(("current", "voltage", "speed"), values, strict=True))
        spellings = [
            values,
            tuple(values),
            named,
            dict(reversed(named.items())),
            named | {"unused": "text"},
            np.array(values),
            np.array(values, dtype=np.float32),
            [np.float32(value) for value in values],
        ]
        for raw in spellings:
            encoded = NUMERIC.encode_row(raw)
            assert encoded.dtype == np.float32
            np.testing.assert_array_equal(encoded, expected)
            np.testing.assert_array_equal(NUMERIC.encode_rows([raw]), expected)

    @given(st.lists(numeric_rows, max_size=5))
    def test_a_batch_is_its_rows_one_by_one(self, batch):
        expected = np.array(batch, dtype=np.float32).reshape(len(batch), 3)
        np.testing.assert_array_equal(NUMERIC.encode_rows(batch), expected)
        np.testing.assert_array_equal(NUMERIC.encode_rows(expected), expected)
        np.testing.assert_array_equal(NUMERIC.encode_rows(expected.astype(object)), expected)

    @pytest.mark.parametrize("value", [True, 3, np.int8(3), Decimal("0.5"), Fraction(1, 4)])
    def test_anything_that_is_a_number_is_taken(self, value):
        assert NUMERIC.encode_row([value, 0, 0])[0, 0] == np.float32(float(value))

    def test_small_integer_scalars_do_not_overflow_on_the_way(self):
        row = np.array([100, 100, 100], dtype=np.int8)
        assert NUMERIC.encode_row(list(row)).tolist() == [[100.0, 100.0, 100.0]]

    def test_the_largest_numbers_fit(self):
        largest = float(np.finfo(np.float32).max)
        assert NUMERIC.encode_row([largest, largest, largest]).tolist() == [[largest] * 3]

    @pytest.mark.parametrize(
        "bad",
        [
            "1.5",
            b"1.5",
            "",
            None,
            math.nan,
            np.float32("nan"),
            math.inf,
            -math.inf,
            1e39,
            10**400,
            1j,
            [1.0],
            {},
            np.array([1.0]),
            object(),
        ],
        ids=repr,
    )
    def test_what_is_not_a_finite_number_is_refused_by_name(self, bad):
        row = [1.0, bad, 2.0]
        named = dict(zip(("current", "voltage", "speed"), row, strict=True))
        for raw in (row, named):
            with pytest.raises(SignatureError, match="feature 'voltage'") as caught:
                NUMERIC.encode_row(raw)
            assert caught.value.advice
            with pytest.raises(SignatureError, match="row 1, feature 'voltage'"):
                NUMERIC.encode_rows([[1, 2, 3], raw])

    @pytest.mark.parametrize("bad", [math.nan, math.inf, 1e39])
    def test_an_array_with_a_bad_number_is_refused_by_row_and_name(self, bad):
        batch = np.ones((4, 3))
        batch[2, 1] = bad
        with pytest.raises(SignatureError, match="row 2, feature 'voltage'"):
            NUMERIC.encode_rows(batch)

    def test_text_in_an_array_is_refused(self):
        with pytest.raises(SignatureError, match="row 0, feature 'current'"):
            NUMERIC.encode_rows(np.array([["1", "2", "3"]]))

    @pytest.mark.parametrize(
        "raw",
        [
            [],
            [1.0],
            [1.0] * 4,
            "abc",
            b"abc",
            5.0,
            None,
            {1.0, 2.0, 3.0},
            bytearray(b"abc"),
            np.ones((1, 3)),
            np.ones((3, 1)),
        ],
    )
    def test_what_is_not_a_row_is_refused(self, raw):
        with pytest.raises(SignatureError):
            NUMERIC.encode_row(raw)
        with pytest.raises(SignatureError):
            NUMERIC.encode_rows([raw])

    @pytest.mark.parametrize(
        "raw", [None, 5, "abc", {"current": 1}, [1.0, 2.0, 3.0], np.ones(3), np.ones((2, 4))]
    )
    def test_what_is_not_a_batch_is_refused(self, raw):
        with pytest.raises(SignatureError):
            NUMERIC.encode_rows(raw)

    def test_a_missing_feature_is_named_with_the_column_that_stands_there_instead(self):
        with pytest.raises(SignatureError, match=r"lacks voltage.*unknown here: volts"):
            NUMERIC.encode_row({"current": 1, "volts": 2, "speed": 3})

    def test_a_single_feature_works_by_name_too(self):
        codec = Codec(signature(features=[FeatureSpec(name="only")]))
        assert codec.encode_row({"only": 4}).tolist() == [[4.0]]
        with pytest.raises(SignatureError, match="lacks only"):
            codec.encode_row({"other": 4})


class TestEncodingCategories:
    def test_categories_become_their_codes(self):
        rows = MIXED.encode_rows([["petrol", 1, "a"], ["diesel", 2, "b"], [7, 3, "b"]])
        assert rows.tolist() == [[0, 1, 0], [1, 2, 1], [2, 3, 1]]

    def test_missing_values_become_nan_where_the_model_knows_them(self):
        row = MIXED.encode_row({"fuel": "petrol", "age": None, "site": math.nan})
        np.testing.assert_array_equal(row, [[0.0, np.nan, np.nan]])
        numeric = Codec(signature(features=[FeatureSpec(name="age", missing_allowed=True)]))
        np.testing.assert_array_equal(numeric.encode_row([None]), [[np.nan]])
        np.testing.assert_array_equal(
            numeric.encode_rows(np.array([[np.nan], [1]])), [[np.nan], [1]]
        )

    def test_an_unknown_category_is_refused_or_encoded(self):
        assert MIXED.encode_row(["petrol", 1, "z"])[0, 2] == -1.0
        with pytest.raises(SignatureError, match=r"feature 'fuel'.*'petrol', 'diesel'"):
            MIXED.encode_row(["kerosene", 1, "a"])
        with pytest.raises(SignatureError, match="feature 'fuel'"):
            MIXED.encode_row([["petrol"], 1, "a"])
        with pytest.raises(SignatureError, match="feature 'site'"):
            MIXED.encode_row(["petrol", 1, ["a"]])

    def test_numbers_beside_categories_are_checked_too(self):
        with pytest.raises(SignatureError, match="feature 'age'"):
            MIXED.encode_row(["petrol", "old", "a"])
        with pytest.raises(SignatureError, match="feature 'age'"):
            MIXED.encode_row(["petrol", math.inf, "a"])

    def test_an_array_of_objects_is_taken(self):
        raw = np.array([["petrol", 1.5, "a"]], dtype=object)
        assert MIXED.encode_rows(raw).tolist() == [[0.0, 1.5, 0.0]]
        assert MIXED.encode_row(raw[0]).tolist() == [[0.0, 1.5, 0.0]]


class TestUnnamedArrays:
    CODEC = Codec(signature(features=[], shape=(-1, 4, 2)))

    def test_rows_keep_their_shape(self):
        row = np.arange(8).reshape(4, 2)
        assert self.CODEC.encode_row(row).shape == (1, 4, 2)
        assert self.CODEC.encode_row(row.tolist()).shape == (1, 4, 2)
        assert self.CODEC.encode_rows([row, row]).shape == (2, 4, 2)
        assert self.CODEC.encode_rows([]).shape == (0, 4, 2)

    @pytest.mark.parametrize(
        "raw",
        [
            np.zeros((2, 4)),
            np.zeros(8),
            [[1, 2], [3]],
            [["a", "b"]] * 4,
            np.full((4, 2), np.nan),
            np.full((4, 2), 1e300),
            None,
            "abc",
        ],
    )
    def test_what_does_not_fit_is_refused(self, raw):
        with pytest.raises(SignatureError):
            self.CODEC.encode_row(raw)
        with pytest.raises(SignatureError):
            self.CODEC.encode_rows([raw])

    def test_a_dynamic_dimension_takes_any_size(self):
        codec = Codec(signature(features=[], shape=(-1, -1, 2)))
        assert codec.encode_row(np.zeros((9, 2))).shape == (1, 9, 2)
        with pytest.raises(SignatureError, match="different shapes"):
            codec.encode_rows([np.zeros((9, 2)), np.zeros((8, 2))])


def outside(codec, raw):
    """The features out of range, asked for one row and as a batch."""
    one = codec.admit(raw)[1]
    assert [one] * 2 == list(codec.admit_rows([raw, raw])[1])
    return one


class TestRange:
    @pytest.mark.parametrize(
        ("raw", "names"),
        [
            ([1, 1, 1], ()),
            ([0.2, 1, 1], ("current",)),
            ([2.5, -1, 1e9], ("current", "voltage")),
            ([2.0, 0.0, 0], ()),
        ],
    )
    def test_values_outside_what_was_seen_are_named(self, raw, names):
        assert outside(NUMERIC, raw) == names

    @given(numeric_rows)
    def test_one_row_and_many_agree(self, values):
        """Also with the plain comparison of float32 values, bounds and neighbours included."""
        rows = np.asarray([values], dtype=np.float32)
        names = tuple(
            feature.name
            for feature, value in zip(NUMERIC.signature.features, rows[0], strict=True)
            if (feature.low is not None and value < np.float32(feature.low))
            or (feature.high is not None and value > np.float32(feature.high))
        )
        assert outside(NUMERIC, list(values)) == names

    @given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.integers(-3, 3))
    def test_the_limits_of_unrounded_numbers_are_those_of_float32(self, bound, steps):
        codec = Codec(signature(features=[FeatureSpec(name="a", low=bound, high=bound)]))
        limits = float32_limits(codec.signature.features[0])
        for limit in (*limits, bound):
            value = limit
            for _ in range(abs(steps)):
                value = math.nextafter(value, math.copysign(math.inf, steps))
            if abs(value) <= np.finfo(np.float32).max:
                is_inside = np.float32(value) == np.float32(bound)
                assert outside(codec, [value]) == (() if is_inside else ("a",))

    def test_the_lowest_value_seen_lies_inside_though_it_is_rounded_to_float32(self):
        assert outside(NUMERIC, [0.3, 1, 1]) == ()

    def test_an_unknown_category_is_outside_and_a_known_one_is_not(self):
        assert outside(MIXED, ["petrol", 1, "z"]) == ("site",)
        assert outside(MIXED, ["diesel", 1, "b"]) == ()
        assert outside(MIXED, [7, None, None]) == ()

    def test_a_missing_value_is_not_outside(self):
        codec = Codec(
            signature(features=[FeatureSpec(name="a", low=0, high=1, missing_allowed=True)])
        )
        assert outside(codec, [None]) == ()


class TestRangePolicy:
    def test_clip_moves_a_value_to_the_nearest_one_seen(self):
        codec = Codec(NUMERIC.signature, out_of_range="clip")
        rows, names = codec.admit([9, -3, 1e9])
        assert rows.tolist() == [[9.0, -3.0, 1e9]]  # what was measured is what is counted
        assert codec.tensors(rows)[0].tolist() == [[2.0, 0.0, 1e9]]
        assert names == ("current", "voltage")
        rows, each = codec.admit_rows([[1, 1, 1], [9, 1, 1]])
        assert codec.tensors(rows)[0].tolist() == [[1, 1, 1], [2, 1, 1]]
        assert list(each) == [(), ("current",)]

    def test_clip_makes_no_category_of_an_unknown_one(self):
        codec = Codec(MIXED.signature, out_of_range="clip")
        rows, names = codec.admit(["petrol", 1, "z"])
        assert codec.tensors(rows)[0][0, 2] == -1.0
        assert names == ("site",)

    def test_reject_names_feature_value_and_range(self):
        codec = Codec(NUMERIC.signature, out_of_range="reject")
        assert codec.admit([1, 1, 1])[1] == ()
        with pytest.raises(SignatureError, match=r"9 lies outside 0\.3 … 2.*'current'"):
            codec.admit([9, 1, 1])
        with pytest.raises(SignatureError, match="row 1, feature 'voltage'"):
            codec.admit_rows([[1, 1, 1], [1, -1, 1]])
        with pytest.raises(SignatureError, match=r"not seen in training.*'site'"):
            Codec(MIXED.signature, out_of_range="reject").admit(["petrol", 1, "z"])

    def test_an_unknown_policy_is_refused(self):
        with pytest.raises(ConfigError, match="flag, reject, clip"):
            Codec(NUMERIC.signature, out_of_range="ignore")


class TestDecoding:
    def test_the_most_probable_class_wins_and_a_tie_goes_to_the_first(self):
        rows = np.array([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2]], dtype=np.float32)
        first, second = NUMERIC.decode([rows], latency_ms=2.5)
        assert (first.label, second.label) == ("worn", "ok")
        assert first.confidence == pytest.approx(0.5)
        assert first.probabilities == pytest.approx((0.2, 0.5, 0.3))
        assert first.latency_ms == 2.5
        assert first.value is None
        np.testing.assert_array_equal(second.outputs["p"], rows[1])
        assert dict(first.outputs).keys() == {"p"}
        assert "q" not in first.outputs

    def test_an_answer_says_what_was_out_of_range(self):
        _, names = NUMERIC.admit([9, 1, 1])
        answer = NUMERIC.decode([np.full((1, 3), 1 / 3, dtype=np.float32)], outside=[names])[0]
        assert answer.out_of_range == ("current",)

    def test_a_label_output_decides_over_the_probabilities(self):
        codec = Codec(
            signature(
                features=NUMERIC.signature.features,
                outputs=(
                    TensorSpec(name="label", shape=(-1,), dtype="int64", role="label"),
                    TensorSpec(name="p", shape=(-1, 3), dtype="float32", role="probabilities"),
                ),
            )
        )
        probabilities = np.array([[0.2, 0.5, 0.3]], dtype=np.float32)
        answer = codec.decode([np.array([2]), probabilities])[0]
        assert answer.label == "broken"
        assert answer.confidence == pytest.approx(0.3)
        assert answer.outputs["label"].shape == ()
        for wrong in (3, -1):
            with pytest.raises(ModelRuntimeError, match="3 labels"):
                codec.decode([np.array([wrong]), probabilities])

    @pytest.mark.parametrize("label", [2, -1])
    def test_a_label_without_a_column_or_a_column_without_a_label_is_an_error(self, label):
        outputs = (
            TensorSpec(name="label", shape=(-1,), dtype="int64", role="label"),
            TensorSpec(name="p", shape=(-1, 2), dtype="float32", role="probabilities"),
        )
        for labels in (LABELS, ()):
            codec = Codec(
                signature(features=[FeatureSpec(name="a")], outputs=outputs, labels=labels)
            )
            with pytest.raises(ModelRuntimeError, match=f"class {label} of 2"):
                codec.decode([np.array([label]), np.full((1, 2), 0.5, dtype=np.float32)])
        with pytest.raises(ModelRuntimeError, match="3 labels"):
            Codec(signature(features=[FeatureSpec(name="a")], outputs=outputs[1:])).decode(
                [np.array([[0.9, 0.1]], dtype=np.float32)]
            )

    def test_a_label_output_has_one_integer_a_row(self):
        spec = TensorSpec(name="label", shape=(-1, 2), dtype="int32", role="label")
        codec = Codec(signature(features=[FeatureSpec(name="a")], outputs=(spec,)))
        with pytest.raises(ModelRuntimeError, match="one number a row"):
            codec.decode([np.zeros((3, 2), dtype=np.int32)])
        with pytest.raises(SignatureError, match="not a class number"):
            Codec(
                signature(
                    features=[FeatureSpec(name="a")],
                    outputs=(TensorSpec(name="l", shape=(-1,), dtype="float32", role="label"),),
                )
            )

    def test_decision_values_that_are_not_numbers_are_an_error(self):
        spec = TensorSpec(name="d", shape=(-1, 3), dtype="float32", role="decision")
        codec = Codec(signature(features=[FeatureSpec(name="a")], outputs=(spec,)))
        with pytest.raises(ModelRuntimeError, match="NaN"):
            codec.decode([np.array([[0.0, np.nan, 1.0]], dtype=np.float32)])

    @pytest.mark.parametrize(
        ("decision", "label"), [([[0.1, 3.0, -1.0]], "worn"), ([[-0.5]], "ok"), ([[0.5]], "worn")]
    )
    def test_decision_values_decide_where_nothing_else_does(self, decision, label):
        decision = np.array(decision, dtype=np.float32)
        spec = TensorSpec(name="d", shape=(-1, decision.shape[1]), dtype="float32", role="decision")
        codec = Codec(signature(features=[FeatureSpec(name="a")], outputs=(spec,)))
        answer = codec.decode([decision])[0]
        assert (answer.label, answer.confidence, answer.probabilities) == (label, None, None)

    @pytest.mark.parametrize("shape", [(-1, 1), (-1,)])
    def test_a_sigmoid_speaks_of_the_second_class(self, shape):
        spec = TensorSpec(name="p", shape=shape, dtype="float32", role="probabilities")
        codec = Codec(
            signature(features=[FeatureSpec(name="a")], outputs=(spec,), labels=("no", "yes"))
        )
        output = np.array([0.75, 0.25], dtype=np.float32).reshape(shape)
        first, second = codec.decode([output])
        assert (first.label, first.probabilities, first.confidence) == ("yes", (0.25, 0.75), 0.75)
        assert (second.label, second.confidence) == ("no", 0.75)
        assert codec.decode([output[:0]]) == []

    @pytest.mark.parametrize("shape", [(-1, 1), (-1,), (-1, 1, 1)])
    def test_a_regression_gives_its_value(self, shape):
        codec = regression(shape)
        output = np.array([1.5, -2.0], dtype=np.float32).reshape(shape)
        first, second = codec.decode([output])
        assert (first.value, second.value) == (1.5, -2.0)
        assert (first.label, first.confidence, first.probabilities) == (None, None, None)

    def test_several_values_stay_in_the_outputs(self):
        answer = regression((-1, 2)).decode([np.array([[1, 2]], dtype=np.float32)])[0]
        assert answer.value is None
        assert answer.outputs["v"].tolist() == [1.0, 2.0]

    def test_integer_outputs_are_scaled(self):
        spec = TensorSpec(
            name="p",
            shape=(-1, 3),
            dtype="int8",
            role="probabilities",
            scale=(1 / 256,),
            zero_point=(-128,),
        )
        codec = Codec(signature(features=[FeatureSpec(name="a")], outputs=(spec,)))
        answer = codec.decode([np.array([[-128, 0, 64]], dtype=np.int8)])[0]
        assert answer.probabilities == (0.0, 0.5, 0.75)
        assert answer.outputs["p"].dtype == np.float32

    def test_a_cluster_is_its_number_where_there_are_no_labels(self):
        spec = TensorSpec(name="c", shape=(-1,), dtype="int32", role="label")
        codec = Codec(
            signature(
                features=[FeatureSpec(name="a")], outputs=(spec,), labels=(), task="clustering"
            )
        )
        assert codec.decode([np.array([4], dtype=np.int32)])[0].label == 4

    def test_a_transformation_is_in_the_outputs_only(self):
        spec = TensorSpec(name="t", shape=(-1, 2), dtype="float32", role="transformed")
        codec = Codec(
            signature(
                features=[FeatureSpec(name="a")], outputs=(spec,), labels=(), task="transform"
            )
        )
        answer = codec.decode([np.array([[1, 2]], dtype=np.float32)])[0]
        assert (answer.label, answer.value) == (None, None)
        assert answer.outputs["t"].tolist() == [1.0, 2.0]

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_an_answer_that_is_not_a_number_is_an_error_not_a_label(self, bad):
        with pytest.raises(ModelRuntimeError, match="NaN"):
            NUMERIC.decode([np.array([[0.5, bad, 0.5]], dtype=np.float32)])
        with pytest.raises(ModelRuntimeError, match="NaN"):
            regression((-1, 1)).decode([np.array([[bad]], dtype=np.float32)])

    def test_outputs_that_contradict_the_signature_are_an_error(self):
        good = np.full((2, 3), 1 / 3, dtype=np.float32)
        with pytest.raises(ModelRuntimeError):
            NUMERIC.decode([good, good])
        with pytest.raises(ModelRuntimeError):
            NUMERIC.decode([good], outside=[()])
        with pytest.raises(ModelRuntimeError):
            NUMERIC.decode([np.float32(1.0)], outside=[()])
        with pytest.raises(ModelRuntimeError):
            NUMERIC.decode([np.float32(1.0)])

    def test_no_rows_give_no_answers(self):
        rows = NUMERIC.encode_rows([])
        assert rows.shape == (0, 3)
        assert NUMERIC.decode([np.empty((0, 3), dtype=np.float32)]) == []


def regression(shape):
    return Codec(
        signature(
            features=[FeatureSpec(name="a")],
            outputs=(TensorSpec(name="v", shape=shape, dtype="float32", role="value"),),
            labels=(),
            task="regression",
        )
    )


class TestQuantization:
    @given(
        st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=8),
        st.floats(2**-20, 1e3, width=32),
        st.integers(-128, 127),
    )
    def test_the_way_back_is_within_half_a_step_or_saturated(self, values, scale, zero_point):
        spec = TensorSpec(
            name="x", shape=(-1, 1), dtype="int8", scale=(scale,), zero_point=(zero_point,)
        )
        real = np.array(values, dtype=np.float32)[:, np.newaxis]
        codes = quantize(spec, real)
        assert codes.dtype == np.int8
        low, high = (-128 - zero_point) * scale, (127 - zero_point) * scale
        back = dequantize(spec, codes)
        np.testing.assert_allclose(back, np.clip(real, low, high), atol=scale * 0.5001, rtol=1e-6)

    def test_halves_go_to_even_and_the_ends_saturate(self):
        spec = TensorSpec(name="x", shape=(-1, 6), dtype="int8", scale=(1.0,), zero_point=(0,))
        real = np.array([[0.5, 1.5, 2.5, -0.5, 1e30, -1e30]], dtype=np.float32)
        assert quantize(spec, real).tolist() == [[0, 2, 2, 0, 127, -128]]

    def test_every_feature_has_its_own_scale(self):
        spec = TensorSpec(
            name="x", shape=(-1, 2), dtype="uint8", scale=(0.5, 10.0), zero_point=(0, 128)
        )
        real = np.array([[2.0, 30.0], [4.0, -30.0]], dtype=np.float32)
        codes = quantize(spec, real)
        assert codes.tolist() == [[4, 131], [8, 125]]
        np.testing.assert_array_equal(dequantize(spec, codes), real)

    @pytest.mark.parametrize(
        ("dtype", "expected"),
        [("float32", 1.6), ("float16", 1.6), ("int32", 2), ("int64", 2), ("bool", True)],
    )
    def test_without_a_scale_values_are_converted(self, dtype, expected):
        spec = TensorSpec(name="x", shape=(-1, 1), dtype=dtype)
        tensor = quantize(spec, np.array([[1.6]], dtype=np.float32))
        assert tensor.dtype == dtype
        assert tensor[0, 0] == pytest.approx(expected, rel=1e-3)
        assert dequantize(spec, tensor).dtype == ("float32" if dtype == "float16" else dtype)

    def test_a_missing_value_has_no_code(self):
        spec = TensorSpec(name="x", shape=(-1, 2), dtype="int8", scale=(1.0,), zero_point=(0,))
        with pytest.raises(SignatureError, match="missing value"):
            quantize(spec, np.array([[1.0, np.nan]], dtype=np.float32))

    def test_the_codec_quantizes_its_rows(self):
        codec = Codec(
            signature(
                features=[FeatureSpec(name="a"), FeatureSpec(name="b")],
                dtype="int8",
                scale=(0.5, 2.0),
                zero_point=(0, 1),
            )
        )
        (tensor,) = codec.tensors(codec.encode_row([1.0, 4.0]))
        assert tensor.dtype == np.int8
        assert tensor.tolist() == [[2, 3]]

    @pytest.mark.parametrize(
        "changes",
        [
            {"scale": (0.0,), "zero_point": (0,)},
            {"scale": (-1.0,), "zero_point": (0,)},
            {"scale": (math.nan,), "zero_point": (0,)},
            {"scale": (1.0, 1.0, 1.0), "zero_point": (0, 0, 0)},
            {"scale": (1.0,), "zero_point": ()},
            {"dtype": "complex64"},
            {"dtype": "object"},
        ],
    )
    def test_a_scale_that_cannot_be_is_refused(self, changes):
        x = {"dtype": "int8"} | changes
        with pytest.raises(SignatureError):
            Codec(signature(features=[FeatureSpec(name="a"), FeatureSpec(name="b")], **x))


def test_features_that_do_not_fill_the_input_are_refused():
    with pytest.raises(SignatureError, match="do not fit"):
        Codec(signature(features=[FeatureSpec(name="a")], shape=(-1, 2)))
