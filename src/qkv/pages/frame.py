"""The frame that every page has: one file that asks for nothing else, with one style, light and dark."""

from importlib.resources import files
from typing import Any

from qkv.pages import tables
from qkv.pages.style import style_sheet


def page(title: str, body: str) -> str:
    """A page.

    Args:
        title: its name, and its heading.
        body: HTML, put in as it is.
    """
    from markupsafe import Markup

    return render("qkv.pages/page.html.jinja", title=title, body=Markup(body))


def render(template: str, **content: Any) -> str:
    """A page by a template of one's own, which fills the frame: text is escaped, and what is not there is an error.

    Args:
        template: `package/file`; it extends `qkv.pages/page.html.jinja`.
        content: what the template asks for. HTML that is to be taken as it is, is `markupsafe.Markup`; what has a
            method `__html__` is shown as that says.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    templates = Environment(
        loader=FunctionLoader(_read), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return templates.get_template(template).render(style=Markup(style_sheet() + "\n" + tables.STYLE), **content)


def _read(name: str) -> str:
    package, _, file = name.partition("/")
    return files(package).joinpath(file).read_text("utf-8")
