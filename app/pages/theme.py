"""The pages' theme: system fonts, one accent colour, light and dark; also the options to mount them.

Nothing is fetched from outside: no web fonts, and only our own scripts.
"""

from typing import Any
from urllib.parse import quote

import gradio as gr

from app.pages.html import ASSETS, asset, icon, mark

SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
SCRIPTS = ("thumbloop.js", "transcript.js", "following.js", "votes.js", "pairs.js", "settings.js")
# Icons of Gradio's buttons, which hold text alone: variables of the style sheet, --tl-send and so on.
BUTTON_ICONS = {
    "send": "arrow-up",
    "stop": "square",
    "new": "square-pen",
    "search": "search",
    "copied": "check",
}
LARGEST_UPLOAD = "200mb"


def build_theme() -> gr.themes.Base:
    return gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        secondary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_lg,
        font=list(SANS),
        font_mono=list(MONO),
    ).set(
        body_background_fill="#ffffff",
        body_background_fill_dark="#0e141b",
        block_background_fill_dark="#141c25",
        background_fill_primary_dark="#0e141b",
        background_fill_secondary_dark="#141c25",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white",
        button_secondary_background_fill="transparent",
        button_secondary_background_fill_dark="transparent",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_hover_dark="*neutral_800",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_700",
        button_border_width="1px",
        button_primary_border_color="transparent",
        button_primary_border_color_dark="transparent",
    )


def mount_options() -> dict[str, Any]:
    """Arguments for gr.mount_gradio_app, stricter than Gradio's defaults."""
    scripts = "".join(f"<script>\n{asset(name)}</script>" for name in SCRIPTS)
    shapes = {name: quote(icon(shape)) for name, shape in BUTTON_ICONS.items()}
    variables = "".join(f'--tl-{name}:url("data:image/svg+xml,{each}");' for name, each in shapes.items())
    return {
        "theme": build_theme(),
        "css": f":root{{{variables}}}",
        "css_paths": [ASSETS / "thumbloop.css"],
        "head": f'<link rel="icon" href="data:image/svg+xml,{quote(mark())}">{scripts}',
        "footer_links": [],
        "run_history": False,
        "show_error": False,
        "max_file_size": LARGEST_UPLOAD,
        "ssr_mode": False,
        "mcp_server": False,
        "pwa": False,
        "enable_monitoring": False,
    }
