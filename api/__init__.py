"""The service: an aiohttp application that tracks when devices and API keys were last active."""
