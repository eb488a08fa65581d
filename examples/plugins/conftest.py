"""These projects are tested where they are installed, by tests/test_authors.py."""

collect_ignore_glob = ["*"]
