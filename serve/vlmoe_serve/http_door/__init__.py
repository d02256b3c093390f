"""The HTTP door: FastAPI, and the ASGI layers around it."""
