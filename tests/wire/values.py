"""Hypothesis strategies for values that the codec carries."""

from __future__ import annotations

from hypothesis import strategies as st

scalars = (
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**64), max_value=2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=40)
    | st.binary(max_size=40)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=8)
        | st.dictionaries(st.text(max_size=30), inner, max_size=8)
        | st.dictionaries(st.integers(min_value=0, max_value=2**64 - 1), inner, max_size=8)
    ),
    max_leaves=30,
)
