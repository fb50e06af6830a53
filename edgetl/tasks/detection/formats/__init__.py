"""Readers of annotated photos: one module for each format, all to `edgetl.tasks.detection.formats.annotated`."""
