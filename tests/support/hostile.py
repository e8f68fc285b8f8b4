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
CELLS = ("a\0b", "x" * 300, "../" * 2000 + "x", "x/" * 3000, "\x1b[2J.nii", "::", "::::x", "a::b::c")
"""Cells of a table that name no image."""

PATHS = (
    *CELLS,
    *("/dev/zero", "/proc/self/environ", "/", ".", "..", "~root", "-", "--out=x", "$(touch ran).nii", "|touch ran"),
    *("`touch ran`.nii", "a;touch ran.nii", "http://127.0.0.1/x.nii", "file:///etc/passwd", "C:\\x.nii", "\\\\h\\s\\x"),
    *("x.nii\u202eexe.", "%s%n.nii", "{0.__class__}.nii", "x.nii.gz::../../x", "x::\x1b[2J", "x.zip/../../x"),
)
"""More places, tried as texts only: some of them are folders of this machine."""

FORMULAS = ("=cmd|' /C calc'!A0", "=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", '=HYPERLINK("http://x")')
TEXTS = (
    *FORMULAS,
    *("</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "&lt;b&gt;", "'; DROP TABLE x; --"),
    *("{{7*7}}", "%s%s%s%n", "{0.__class__}", "${HOME}", "$(touch ran)", "`touch ran`", "a\r\nB: c", "\x1b[31mred"),
    *("\x9b31m", "javascript:alert(1)", "a,b;c", '"', "''", "\\", "\\0", "null", "NaN", "None", "-0", "1e999"),
    *("\u202etxt.exe",),
)
"""Descriptions, regions and titles."""

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
