"""The HTTP face of a node: OpenAI's API and what it has no words for. Thin: everything is done by `gateway` and below.

May import from everything below; `atmo.api.app.create_app` and `atmo.api.http.server.serve` are what a node uses.
"""
