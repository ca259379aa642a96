"""What waits: thin asyncio around the machines."""
