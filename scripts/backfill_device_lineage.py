#!/usr/bin/env python3
"""Complete the lineage of devices that were mapped before the provisioning triggers existed.

The same as `mqtt-service backfill`, with the same options, where the package is not installed.
"""

import sys
from pathlib import Path

# Where the package is not installed (Heroku, Render) it lies beside this folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mqtt_service.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "backfill")
    main()
