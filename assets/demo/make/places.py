"""Where everything of the demonstration lies."""

from pathlib import Path

DEMO = Path(__file__).resolve().parent.parent
CHAT = DEMO / "chat"
CHAT_DATA = DEMO / "chat-data"
VISION = DEMO / "vision"
VISION_GITHUB = DEMO / "vision-github"
VISION_DATA = DEMO / "vision-data"
