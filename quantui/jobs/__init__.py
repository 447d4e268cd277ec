"""Jobs seen from outside the worker: the queue, starting and stopping, following. Never imports torch."""
