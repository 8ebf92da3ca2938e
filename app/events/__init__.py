"""What happened to requests and jobs: written with each change, read in an order in which nothing can be missed."""
