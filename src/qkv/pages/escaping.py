"""Text that stays text: in HTML, and in Markdown."""

import html


def in_html(text: str) -> str:
    """So that it is no markup, neither between tags nor within a quoted attribute."""
    return html.escape(text, quote=True)


def in_markdown(text: str) -> str:
    """On one line, so that it is neither markup nor the end of a cell."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    for character in "\\`*_[]|":
        text = text.replace(character, f"\\{character}")
    return text
