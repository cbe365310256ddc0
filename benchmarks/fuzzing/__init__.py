"""Fuzzing of the service with requests from its OpenAPI document."""
