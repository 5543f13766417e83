"""Take the pictures of the README out of a report.

python docs/images.py smoothflow-demo/report.html
"""

from __future__ import annotations

import base64
import re
import sys
from pathlib import Path

NAMES = {"Ramachandran": "ramachandran", "Energy conservation": "conservation"}
IMAGES = Path(__file__).parent / "images"


def main(report: Path) -> None:
    pictures = re.findall(r'<img[^>]*?src="data:image/png;base64,([^"]+)"[^>]*?alt="([^"]*)"', report.read_text())
    for data, title in pictures:
        for start, name in NAMES.items():
            if title.startswith(start):
                (IMAGES / f"{name}.png").write_bytes(base64.b64decode(data))
                print(f"{name}.png: {title}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
