# SPDX-License-Identifier: Apache-2.0
"""What pages of this project have in common: they need no other file, and load nothing, whatever is in them."""

from __future__ import annotations

HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
"""
