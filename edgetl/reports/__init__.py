"""A report for people: HTML, Markdown, terminal, JUnit."""

__all__: list[str] = []
