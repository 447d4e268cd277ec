"""One file a tab, each with `layout(t) -> View` and `wire(view, services)`."""
