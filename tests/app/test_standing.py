"""Controls that other things move, too."""

from __future__ import annotations

from streamlit.testing.v1 import AppTest


def page() -> None:
    """A control that stands at "at"; a button moves it, too."""
    import streamlit as st

    from app.screen.standing import standing

    def move(to: str) -> None:
        st.session_state["at"] = to

    at = st.session_state.setdefault("at", "x")
    key, changed = standing("letter", at, move)
    st.session_state["told"] = key, changed
    st.radio("Letter", ["x", "y", "z"], key=key, on_change=changed)
    st.button("To z", on_click=move, args=("z",))


def test_a_control_that_is_moved_stays_the_same_and_one_that_something_else_moves_is_another() -> (
    None
):
    app = AppTest.from_function(page).run()
    app.radio(key="letter").set_value("y").run()
    assert app.session_state["at"] == app.radio(key="letter").value == "y"
    app.button[0].click().run()
    assert app.session_state["at"] == app.radio(key="letter-1").value == "z"
    app.radio(key="letter-1").set_value("x").run()
    assert app.session_state["at"] == app.radio(key="letter-1").value == "x"
    assert len(app.radio) == 1
    assert not app.exception


def test_where_a_control_stood_before_something_else_moved_it_is_not_heard() -> None:
    """A browser that has not heard yet tells it with whatever is pressed next."""
    app = AppTest.from_function(page).run()
    _, before = app.session_state["told"]
    app.button[0].click().run()
    app.session_state["letter"] = "y"

    def late() -> None:
        import streamlit as st

        st.session_state["before"]()

    app.session_state["before"] = before
    told = AppTest.from_function(late)
    for name in ("before", "standing", "at", "letter"):
        told.session_state[name] = app.session_state[name]
    told.run()
    assert not told.exception
    assert told.session_state["at"] == "z"
    told.session_state["standing"] = {"letter": (0, "x")}
    told.run()
    assert told.session_state["at"] == "y"  # one that stands there still is heard


def table() -> None:
    """A table whose state is told in rows; a button has it show others."""
    import streamlit as st

    from app.screen.standing import standing

    def show(rows: str) -> None:
        st.session_state["rows"] = rows

    def read(told: int | None) -> object:
        return None if told is None else (rows[told], rows)

    rows = st.session_state.setdefault("rows", "xyz")
    at = st.session_state.setdefault("at", "x")
    key, changed = standing(
        "row",
        (at, rows),
        lambda moved: st.session_state.update(at=moved[0]),
        told=rows.index(at) if at in rows else None,
        read=read,
    )
    st.selectbox("Row", range(3), index=None, key=key, on_change=changed)
    st.button("Others", on_click=show, args=("yzx",))


def test_row_numbers_of_other_rows_are_not_heard_and_no_row_moves_nothing() -> None:
    app = AppTest.from_function(table).run()
    app.selectbox(key="row").set_value(1).run()
    assert app.session_state["at"] == "y"
    app.selectbox(key="row").set_value(None).run()
    assert app.session_state["at"] == "y"
    assert app.selectbox(key="row").value == 1
    app.button[0].click().run()
    assert app.session_state["at"] == "y"
    assert app.selectbox(key="row-1").value == 0
    assert len(app.selectbox) == 1
    assert not app.exception
