"""Colours, type and spacing as a Gradio theme; assets/style.css takes every colour from the variables this sets."""

from __future__ import annotations

from gradio.themes import Base
from gradio.themes.utils import colors, sizes

SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC",
        "WenQuanYi Micro Hei", "sans-serif")  # fmt: skip
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "Noto Sans Mono", "Noto Sans Mono CJK SC",
        "monospace")  # fmt: skip

ACCENT = colors.Color(
    "#f0f1fd", "#e3e5fb", "#c9cdf6", "#a7adef", "#868ee6", "#6670dc", "#4f59cd", "#434bb0", "#383f90", "#2f3572", "#1e2248",
    name="accent",
)  # fmt: skip
NEUTRAL = colors.Color(
    "#fafafb", "#f3f4f6", "#e5e6ea", "#d2d4da", "#9da1ab", "#6d727d", "#505560", "#3a3e47", "#24272e", "#181a1f", "#101216",
    name="ink",
)  # fmt: skip


LOOKS = {
    "body_background_fill": "*neutral_50",
    "body_background_fill_dark": "*neutral_950",
    "body_text_color": "#1b1d22",
    "body_text_color_dark": "#e6e7ea",
    "body_text_color_subdued": "#646974",
    "body_text_color_subdued_dark": "#979ca7",
    "background_fill_primary": "#ffffff",
    "background_fill_primary_dark": "*neutral_900",
    "background_fill_secondary": "*neutral_100",
    "background_fill_secondary_dark": "#1f2228",
    "border_color_primary": "*neutral_200",
    "border_color_primary_dark": "#2b2f37",
    "border_color_accent": "*primary_600",
    "border_color_accent_dark": "*primary_400",
    "color_accent": "*primary_600",
    "color_accent_soft": "*primary_50",
    "color_accent_soft_dark": "#22264a",
    "block_background_fill": "*background_fill_primary",
    "block_title_background_fill": "transparent",
    "panel_background_fill": "transparent",
    "panel_background_fill_dark": "transparent",
    "block_border_width": "0px",
    "block_shadow": "none",
    "block_padding": "0px",
    "block_label_text_weight": "500",
    "input_background_fill": "#ffffff",
    "input_background_fill_dark": "*neutral_900",
    "input_border_color": "*neutral_200",
    "input_border_color_dark": "#2b2f37",
    "input_border_color_focus": "*primary_500",
    "input_border_color_focus_dark": "*primary_400",
    "input_border_width": "1px",
    "input_shadow": "none",
    "input_shadow_focus": "none",
    "input_padding": "6px 8px",
    "checkbox_background_color_selected": "*primary_600",
    "checkbox_border_color_selected": "*primary_600",
    "button_primary_background_fill": "*primary_600",
    "button_primary_background_fill_hover": "*primary_700",
    "button_primary_background_fill_dark": "*primary_600",
    "button_primary_background_fill_hover_dark": "*primary_500",
    "button_primary_text_color": "#ffffff",
    "button_primary_shadow": "none",
    "button_primary_shadow_hover": "none",
    "button_primary_shadow_active": "none",
    "button_transform_hover": "none",
    "button_transform_active": "none",
    "button_border_width": "0px",
    "layout_gap": "16px",
}
"""What differs from Gradio's base theme; names starting with * stand for another of its values."""


def theme() -> Base:
    """The one theme of the page, light and dark."""
    made = Base(
        primary_hue=ACCENT,
        secondary_hue=ACCENT,
        neutral_hue=NEUTRAL,
        spacing_size=sizes.spacing_md,
        radius_size=sizes.radius_sm,
        text_size=sizes.text_md,
        font=SANS,
        font_mono=MONO,
    )
    return made.set(**LOOKS)
