"""What `bench/api.py` is made of: the bare application, the servers of both sides, and the clients' process."""
