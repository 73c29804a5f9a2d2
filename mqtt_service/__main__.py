"""`python -m mqtt_service`, for platforms that do not install the package."""

from mqtt_service.cli import main

main()
