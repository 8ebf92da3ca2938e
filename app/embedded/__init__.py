"""Postgres and Valkey as supervised children: the demo, development, tests. Production brings its own by URL."""
