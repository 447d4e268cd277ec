"""Parts of the page that are HTML: each turns plain data into markup, and knows nothing of gradio events."""
