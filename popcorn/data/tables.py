"""Tables as text, in two dialects of CSV that differ in their quotes.

Kaggle's own files put quotes around a field and write an inner quote as `\\"`, unlike any CSV standard. The standard dialect (RFC
4180) doubles an inner quote, and a quoted field may have line breaks. pandas, Excel and the csv module write the standard
dialect. The content of a file shows its dialect.
"""

import csv
import sys
from dataclasses import dataclass, replace

from popcorn.errors import UserError

SEPARATORS = "\t", ",", ";", "|"
ESCAPED = '\\"'
RETURN = "\ufdd0"  # a noncharacter code point, which no text contains
BACKSLASH = "\ufdd1"  # another one
UNCLOSED = "the quotes of a field are not closed, as in a file that was cut short"


@dataclass(frozen=True)
class Table:
    """The fields of a file."""

    name: str
    """name of the file"""
    columns: list[str]
    """column names as written, without quotes"""
    rows: list[list[str]]
    lines: list[int]
    """first line number of each row"""
    is_escaped: bool
    """whether the file has Kaggle's dialect, so the fields still have their quotes"""
    short: list[int]
    """lines of rows with missing fields at the end, which count as empty"""
    is_ended: bool
    """whether a line break ends the last row"""

    def place(self, column: str) -> int | None:
        """The column's index, ignoring case; None where it is missing.

        Raises `UserError` where two columns have this name.
        """
        for names in (self.columns, [name.lower() for name in self.columns]):
            if names.count(column) > 1:
                raise UserError(f"{self.name}, row 1: column {column!r} is there {names.count(column)} times: keep one")
            if column in names:
                return names.index(column)
        return None

    def fields(self, column: str) -> list[str]:
        """A column's fields as written; the column must exist."""
        place = self.place(column)
        return [row[place] for row in self.rows]

    def first_lost_quote(self, column: str) -> int | None:
        """Line of the first field in which only some quotes have a backslash.

        Such a file was read with wrong rules and saved again.
        """
        for line, field in zip(self.lines, self.fields(column), strict=True):
            is_half_escaped = not self.is_escaped or (not _is_wrapped(field) and _bare_quotes(field) > 0)
            if ESCAPED in field and is_half_escaped:
                return line
        return None

    def texts(self, column: str) -> list[str]:
        """A column's fields without their quotes."""
        fields = self.fields(column)
        if not self.is_escaped:
            return fields
        is_quoted = all(_is_wrapped(field) for field in fields if field)
        return [unquoted(field, is_quoted) for field in fields]


def unquoted(field: str, is_quoted: bool = True) -> str:
    """A field of Kaggle's dialect without its quotes.

    With `is_quoted=False` not all fields have quotes, so outer ones may be part of the text.
    """
    if _is_wrapped(field) and (is_quoted or not _bare_quotes(field[1:-1].replace('""', ""))):
        field = field[1:-1]
    return field.replace(ESCAPED, '"').replace(BACKSLASH, "\\")


def bare(ids: list[str]) -> list[str]:
    """Ids without quotes, for comparisons."""
    return [id.strip().strip('"') for id in ids]


def separator_of(text: str, column: str) -> str | None:
    """The separator of the first line's columns; None where `column` is not one of them."""
    line = text.lstrip("\n").partition("\n")[0]
    for separator in SEPARATORS:
        if separator in line and column in [name.strip().strip('"').lower() for name in line.split(separator)]:
            return separator
    return None


def read_table(text: str, name: str, separator: str, fix: str) -> Table:
    """The table in a text whose first line has the column names.

    Raises `UserError`, with the row, where the text is empty, a row has too many fields, or a quoted field does not end.
    """
    if not text.strip():
        raise UserError(f"{name} cannot be read as a table (it is empty): {fix}")
    escaped, escaped_lines, escaped_fault = _escaped_rows(_marked_backslashes(text), separator)
    rows, lines, fault, is_escaped = escaped, escaped_lines, escaped_fault, True
    if '"' in text and (escaped_fault or ESCAPED not in text or _has_doubled_quotes(escaped)):
        standard, standard_lines, standard_fault = _standard_rows(text, separator)
        if standard_fault is None and (escaped_fault or _has_doubled_quotes(escaped)):
            rows, lines, fault, is_escaped = standard, standard_lines, None, False
        elif escaped_fault and ESCAPED not in text:
            fault = standard_fault
    if fault:
        raise UserError(f"{name}, row {fault[0]}: {fault[1]}: {fix}")
    columns = [field.strip().strip('"').strip() for field in rows[0]]
    short = [line for line, row in zip(lines, rows, strict=True) if len(row) < len(columns)]
    if short and short[-1] == lines[-1] and not text.endswith("\n"):
        raise UserError(f"{name}, row {short[-1]}: the file ends in the middle of this row, so it is cut short: {fix}")
    for row in rows:
        row += [""] * (len(columns) - len(row))
    table = Table(name, columns, rows[1:], lines[1:], is_escaped, short, text.endswith("\n"))
    return table if is_escaped else _escaped_within(table)


def _marked_backslashes(text: str) -> str:
    """The text with a mark for each doubled backslash, if there is no single one.

    The csv module doubles backslashes, Kaggle does not.
    """
    if "\\\\" not in text:
        return text
    marked = text.replace("\\\\", BACKSLASH)
    return marked if "\\" not in marked.replace(ESCAPED, "") else text


def _escaped_within(table: Table) -> Table:
    """Marks a file that was read with its quotes and saved in the standard dialect.

    Both kinds of quotes have to be removed.
    """
    place = table.place("id")
    is_escaped = place is not None and bool(table.rows) and all(_is_wrapped(row[place]) for row in table.rows)
    return replace(table, is_escaped=is_escaped)


def _is_wrapped(field: str) -> bool:
    return len(field) > 1 and field[0] == field[-1] == '"' and field[-2] != "\\"


def _bare_quotes(field: str) -> int:
    """Number of quotes without a backslash before them."""
    return field.count('"') - field.count(ESCAPED)


def _has_doubled_quotes(rows: list[list[str]]) -> bool:
    """Whether a quoted field has doubled quotes inside, as only the standard dialect has."""
    return any('""' in field[1:-1] for row in rows for field in row if len(field) > 3 and field[0] == '"')


def _escaped_rows(text: str, separator: str) -> tuple[list[list[str]], list[int], tuple[int, str] | None]:
    """Kaggle's dialect: fields as written, line numbers, and the first error with its line.

    One line is one row.
    """
    numbered = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip(" ")]
    rows, lines = [line.split(separator) for _, line in numbered], [number for number, _ in numbered]
    for line, row in zip(lines, rows, strict=True):
        if len(row) > len(rows[0]):
            return rows, lines, (line, _too_many(row, rows[0]))
        for field in row:
            # an unclosed quote at the start of a field, or an odd number of quotes where all fields are quoted
            if '"' in field and _bare_quotes(field) % 2 and (field[0] == '"' or row[0][:1] == '"'):
                return rows, lines, (line, UNCLOSED)
    return rows, lines, None


def _standard_rows(text: str, separator: str) -> tuple[list[list[str]], list[int], tuple[int, str] | None]:
    """The same for the standard dialect, where misplaced quotes are errors."""
    csv.field_size_limit(sys.maxsize)
    # for the csv module a single carriage return ends a row
    has_returns = "\r" in text
    if has_returns:
        text = text.replace("\r", RETURN)
    reader = csv.reader((line + "\n" for line in text.removesuffix("\n").split("\n")), delimiter=separator, strict=True)
    rows, lines, line = [], [], 1
    try:
        for row in reader:
            if len(row) > 1 or any(field.strip() for field in row):
                rows.append([field.replace(RETURN, "\r") for field in row] if has_returns else row)
                lines.append(line)
                if len(row) > len(rows[0]):
                    return rows, lines, (line, _too_many(row, rows[0]))
                if separator == "\t" and any("\n" in field and "\t" in field for field in row):
                    return rows, lines, (line, "quotes are not closed before the next row begins")
            line = reader.line_num + 1
    except csv.Error as problem:
        return rows, lines, (line, UNCLOSED if "end of data" in str(problem) else str(problem))
    return rows, lines, None


def _too_many(row: list[str], columns: list[str]) -> str:
    return f"there are more fields than columns ({len(row)} where {len(columns)} are expected)"
