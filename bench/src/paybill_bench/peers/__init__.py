"""What our figures stand beside: the same work, written as well as its tools allow."""
