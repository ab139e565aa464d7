"""HTML reports: one self-contained page, whatever they tell.

`render` is the only way to a page: a template of this package that extends `page.html`, which
brings the style and the macros. Everything is escaped; plots come in as data URIs.
"""

from typing import Any


def render(template: str, *, title: str, lead: str, **values: Any) -> str:
    """Render a page.

    Args:
        template: File name in this package's `templates` folder.
        title: The page's headline.
        lead: One sentence below it.
        values: What the template uses.
    """
    import jinja2  # noqa: PLC0415 - only when a report is written

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fieldloop_cloud.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template(template).render(title=title, lead=lead, **values)
