"""Text cells of exported CSV files, protected from spreadsheets that would read them as formulas."""

# Spreadsheets read a cell that begins with one of these as a formula, or drop the character and look at the
# next. The quote that prevents this is in the list too, so that removing one quote always restores the cell.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "'")


def defuse_cell(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def restore_cell(text: str) -> str:
    """Undo defuse_cell."""
    return text.removeprefix("'")
