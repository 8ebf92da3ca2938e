"""Content kept sealed: a key for each request, kept outside of Postgres, and destroyed when the content is to go."""
