"""Postgres and Valkey as supervised children: for the demo, development and tests. Production brings its own by URL."""
