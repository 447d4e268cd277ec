"""The page. Only this package imports gradio."""

from quantui.ui import quick_import

quick_import.install()
