"""Scenarios that run the real protocol code in virtual time."""
