"""Makes the embedded demonstration models and their data: `python -m assets.demo.make [chat|vision|all|check]`."""
