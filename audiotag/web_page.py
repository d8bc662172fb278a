"""What our HTML pages share: their head, colours by day and by night, and text that is safe in them.

A page needs nothing but itself: no font, picture, sound or script from elsewhere.
"""

from __future__ import annotations

from html import escape

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --faint: #667; --line: #d8dce2; --mark: #0b62d6;
        --soft: #cfe2fb; --dot: #c2410c; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171b; --ink: #e6e8eb; --faint: #9aa3ad; --line: #333a42; --mark: #6aa9ff; --soft: #23446e;
          --dot: #ff9a62; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
       max-width: 72rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .2rem .6rem; border-bottom: 1px solid var(--line); }
td { white-space: nowrap; } th { font-weight: 500; vertical-align: bottom; }
.text { text-align: left; white-space: normal; overflow-wrap: anywhere; }
@media (max-width: 48rem) { table { display: block; overflow-x: auto; } .text { overflow-wrap: break-word; } }
.note, figcaption, th, small { color: var(--faint); } .note { overflow-wrap: anywhere; }
figure { margin: 0; } figcaption { font-size: .85rem; overflow-wrap: anywhere; }
"""


def begin_page(title: str, *, style: str) -> str:
    """All that comes before what is in the body; `style` comes after the common one."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{safe(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}{style}</style></head>\n<body>\n'
    )


END_OF_PAGE = "</body></html>\n"


def safe(text: object) -> str:
    """Text as it may stand between tags and in quotes; what UTF-8 cannot hold is written as in Python: `\\udcff`."""
    return escape(str(text).encode("utf-8", "backslashreplace").decode("utf-8"))
