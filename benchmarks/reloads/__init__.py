"""Replaces and kills workers under load, and checks that no response and no touch is lost."""
