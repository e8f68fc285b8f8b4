"""Names that a table, a file or a server may bring to do harm; and odd ones that are in order."""

from differseg_med.paths import LONGEST_PART

TRAVERSAL = (
    "../x",
    "..",
    ".",
    "...",
    "a/../../b",
    "/etc/passwd",
    "..\\x",
    "C:\\x",
    "C:x",
    "a/b",
    "\\\\host\\share",
    "~/x/y",
)
CONTROL = (
    "a\0b",
    "a\nb",
    "a\tb",
    "\x1b[2Jx",
    "\x1b]0;title\x07",
    "a\rb",
    "a\x7fb",
    "a\u202egpj",
    "a\u200bb",
    "a\u2028b",
)
BROKEN = ("\udc80x", "a\udfff")
EDGES = (" a", "a ", "a.", ".a", "a. ", "", " ", "\u00a0", "\ufeffa")
LONG = ("a" * 201, "a" * 240, "a" * 256, "é" * 101, "漢" * 80, "a" * 70_000)
DEVICES = ("CON", "con", "NUL", "nul.txt", "Aux", "PRN", "COM1", "lpt9", "com¹", "NUL .x", "CONIN$", "con.tar.gz")
CHARACTERS = ("a:b", "a*b", "a?b", 'a"b', "a<b", "a>b", "a|b", "<script>alert(1)</script>")
HOSTILE = (*TRAVERSAL, *CONTROL, *BROKEN, *EDGES, *LONG, *DEVICES, *CHARACTERS)

GOOD = (
    "case_001",
    "P-17",
    "Größe",
    "症例 7",
    "a" * LONGEST_PART,
    "$HOME",
    "%out",
    "@x",
    "=1+1",
    "a;b",
    "a'b",
    "COM",
    "CONTROL",
    "nullo",
    "-x",
    "a..b",
    "~",
)
