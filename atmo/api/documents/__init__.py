"""What the API says of itself: `/openapi.json` and the page `/docs`, made of the tables of checks."""
