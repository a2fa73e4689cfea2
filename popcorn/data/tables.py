"""Tables as text, in the two dialects that are in use, told apart by what the file holds.

Kaggle's own puts quotes around a field and writes an inner quote as `\\"`, which is no CSV dialect. The standard one (RFC 4180)
doubles an inner quote, and a field in quotes may hold line breaks. pandas, Excel and the csv module write that.
"""

import csv
import sys
from dataclasses import dataclass, replace

from popcorn.errors import UserError

SEPARATORS = "\t", ",", ";", "|"
ESCAPED = '\\"'
RETURN = "\ufdd0"  # a code point that is no character, and never one of a text
BACKSLASH = "\ufdd1"  # another one
UNCLOSED = "the quotes of a field are not closed, as in a file that was cut short"


@dataclass(frozen=True)
class Table:
    """The fields of a file."""

    name: str
    """of the file"""
    columns: list[str]
    """names as they are written there, without quotes"""
    rows: list[list[str]]
    lines: list[int]
    """number of the line that each row begins on"""
    is_escaped: bool
    """Kaggle's dialect: the fields have their quotes still"""
    short: list[int]
    """lines of the rows that end before their last fields, which count as empty"""
    is_ended: bool
    """whether a line break ends the last row"""

    def place(self, column: str) -> int | None:
        """The column's number, whatever the case of its name; None where it is missing.

        Raises `UserError` where two columns have the name.
        """
        for names in (self.columns, [name.lower() for name in self.columns]):
            if names.count(column) > 1:
                raise UserError(f"{self.name}, row 1: column {column!r} is there {names.count(column)} times: keep one")
            if column in names:
                return names.index(column)
        return None

    def fields(self, column: str) -> list[str]:
        """A column's fields as they are written; `column` must be there."""
        place = self.place(column)
        return [row[place] for row in self.rows]

    def first_lost_quote(self, column: str) -> int | None:
        """The line of a field some of whose quotes have a backslash and some have none, as after a reading by wrong rules."""
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
    """A field of Kaggle's dialect without its quotes. Where not all fields have them (`is_quoted`) they may be the text's own."""
    if _is_wrapped(field) and (is_quoted or not _bare_quotes(field[1:-1].replace('""', ""))):
        field = field[1:-1]
    return field.replace(ESCAPED, '"').replace(BACKSLASH, "\\")


def bare(ids: list[str]) -> list[str]:
    """Ids in the form that they are compared in: without quotes, however the file has them."""
    return [id.strip().strip('"') for id in ids]


def separator_of(text: str, column: str) -> str | None:
    """What separates the columns in the first line, where one of them is `column`; None where none is."""
    line = text.lstrip("\n").partition("\n")[0]
    for separator in SEPARATORS:
        if separator in line and column in [name.strip().strip('"').lower() for name in line.split(separator)]:
            return separator
    return None


def read_table(text: str, name: str, separator: str, fix: str) -> Table:
    """The table in a text whose first line names the columns.

    Raises `UserError`, with the row, where it is empty, where a row has too many fields, or where one ends within its quotes.
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
    """The text with a mark for each doubled backslash, where none stands alone: the csv module doubles them, Kaggle does not."""
    if "\\\\" not in text:
        return text
    marked = text.replace("\\\\", BACKSLASH)
    return marked if "\\" not in marked.replace(ESCAPED, "") else text


def _escaped_within(table: Table) -> Table:
    """A file in Kaggle's dialect that was read without undoing its quotes, and saved by the standard: both are to be undone."""
    place = table.place("id")
    is_escaped = place is not None and bool(table.rows) and all(_is_wrapped(row[place]) for row in table.rows)
    return replace(table, is_escaped=is_escaped)


def _is_wrapped(field: str) -> bool:
    return len(field) > 1 and field[0] == field[-1] == '"' and field[-2] != "\\"


def _bare_quotes(field: str) -> int:
    """Quotes that no backslash stands before."""
    return field.count('"') - field.count(ESCAPED)


def _has_doubled_quotes(rows: list[list[str]]) -> bool:
    """Whether a field in quotes has doubled ones inside, which only the standard dialect writes."""
    return any('""' in field[1:-1] for row in rows for field in row if len(field) > 3 and field[0] == '"')


def _escaped_rows(text: str, separator: str) -> tuple[list[list[str]], list[int], tuple[int, str] | None]:
    """Fields as they are written, the rows' lines, and the first fault with its line: one line is one row."""
    numbered = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip(" ")]
    rows, lines = [line.split(separator) for _, line in numbered], [number for number, _ in numbered]
    for line, row in zip(lines, rows, strict=True):
        if len(row) > len(rows[0]):
            return rows, lines, (line, _too_many(row, rows[0]))
        for field in row:
            # a quote that opens a field and is not closed, or any that is left over where all fields have quotes
            if '"' in field and _bare_quotes(field) % 2 and (field[0] == '"' or row[0][:1] == '"'):
                return rows, lines, (line, UNCLOSED)
    return rows, lines, None


def _standard_rows(text: str, separator: str) -> tuple[list[list[str]], list[int], tuple[int, str] | None]:
    """The same by the standard's rules, kept strictly: quotes that stand otherwise are a fault."""
    csv.field_size_limit(sys.maxsize)
    # the csv module takes a lone carriage return for the end of a row
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
        said = UNCLOSED if "end of data" in str(problem) else str(problem)
        return rows, lines, (line, said)
    return rows, lines, None


def _too_many(row: list[str], columns: list[str]) -> str:
    return f"there are more fields than columns ({len(row)} where {len(columns)} are expected)"
