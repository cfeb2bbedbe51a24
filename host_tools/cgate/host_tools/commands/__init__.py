"""One module per command; each defines `command` and keeps heavy imports inside it."""
