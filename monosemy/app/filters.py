"""Numbers and tokens as pages show them: the filters of the templates."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape


def short(value: float | None) -> str:
    """A number with four significant digits, empty where it is not defined."""
    if value is None:
        return ""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{float(f'{value:.4g}'):.10g}"
    return f"{value:.2e}".replace("e-0", "e-").replace("e+0", "e+")  # as scripts write it


def whole_number(value: int) -> str:
    """A whole number with its thousands apart."""
    return f"{value:,}"


def size(count: float) -> str:
    """Bytes in the unit that suits them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def token_rows(pairs: Sequence[tuple[str, float]], share: bool = False) -> Markup:
    """Rows of a table: a token (as the macro `token` writes it), and its share or its number.

    A page of a feature has forty of them; a template would need a third of the time in which the page is made.
    """
    rows = []
    for text, value in pairs:
        token, shown = escape(text), f"{100 * value:.1f} %" if share else f"{value:.3f}"
        rows.append(
            f'<tr><td><bdi class="token" data-token="{token}">{token}</bdi></td><td title="{value}">{shown}</td></tr>\n'
        )
    return Markup("".join(rows))
